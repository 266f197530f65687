-- The heartbeat of taken messages.
-- KEYS: unacked, unacked_index, weir.running. ARGV: tags.
-- Returns those that are held no more.
local time = redis.call('TIME')
local now = time[1] .. '.' .. string.format('%06d', time[2])
local lost = {}
redis.call('HDEL', KEYS[1], '') -- lets the rest through when memory is full: see finish.lua
for _, tag in ipairs(ARGV) do
  if redis.call('HEXISTS', KEYS[1], tag) == 1 then
    redis.call('ZADD', KEYS[2], now, tag)
    redis.call('ZADD', KEYS[3], now, tag)
  else
    lost[#lost + 1] = tag
  end
end
return lost
