-- Finds what is to be put back: what was taken longer ago than the visibility
-- timeout, by whomever (what is parked and due looks so), and what one of our
-- workers has given no heartbeat for longer than the lease.
-- KEYS: unacked, unacked_index, weir.running.
-- ARGV: visibility timeout in seconds, lease in seconds, how many at most.
-- Returns for each: tag, entry, score in unacked_index, 1 if a worker of ours died with it.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local out, seen, size = {}, {}, 0
local function gather(key, ceiling, died)
  for _, tag in ipairs(redis.call('ZRANGEBYSCORE', key, '-inf', string.format('%.6f', ceiling), 'LIMIT', 0, ARGV[3])) do
    if size > 8e6 then
      return -- more would not come over within a timeout
    end
    local entry = redis.call('HGET', KEYS[1], tag)
    if not entry then
      redis.call('ZREM', KEYS[2], tag)
      redis.call('ZREM', KEYS[3], tag)
    elseif not seen[tag] then
      seen[tag] = true
      size = size + #entry
      out[#out + 1] = {tag, entry, redis.call('ZSCORE', KEYS[2], tag) or '', died}
    end
  end
end
gather(KEYS[3], now - tonumber(ARGV[2]), 1)
gather(KEYS[2], now - tonumber(ARGV[1]), 0)
return out
