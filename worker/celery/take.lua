-- Moves messages from their lists into unacked, at most ARGV[1] of them.
-- KEYS: unacked, unacked_index, weir.running, weir.revoked; then lists, in order.
-- ARGV: 1 how many at most, up to 1000; then for each list the prefix of its
-- tags, and its queue's name as JSON.
-- Returns for each message: itself, its tag, the list's number from 1, and 1 if
-- it is revoked.
local max = tonumber(ARGV[1])
local time = redis.call('TIME')
local now = time[1] .. '.' .. string.format('%06d', time[2])
-- What Redis has carried out stays when a script fails: keys of another type must
-- do so before anything is taken, and a list of another type keeps no other back.
redis.call('HLEN', KEYS[1])
redis.call('ZCARD', KEYS[2])
redis.call('ZCARD', KEYS[3])
local anyRevoked = redis.call('ZCARD', KEYS[4]) > 0
local out, entries, scores, refused = {}, {}, {}, nil
for list = 1, #KEYS - 4 do
  local messages = #out < max and redis.pcall('RPOP', KEYS[4 + list], max - #out)
  if messages and messages.err then
    refused, messages = messages, nil
  end
  -- A client that got no reply sends the same call again: with the time in them,
  -- its tags do not replace those of messages that were taken already.
  local prefix = ARGV[2 * list] .. now .. '.'
  local tail = ',"",' .. ARGV[2 * list + 1] .. ']'
  for _, message in ipairs(messages or {}) do
    local tag = prefix .. #out
    local revoked = 0
    if anyRevoked then
      local readable, decoded = pcall(cjson.decode, message)
      local id = readable and type(decoded) == 'table' and type(decoded.headers) == 'table' and decoded.headers.id
      if type(id) == 'string' and redis.call('ZSCORE', KEYS[4], id) then
        revoked = 1
      end
    end
    entries[#entries + 1] = tag
    entries[#entries + 1] = '[' .. message .. tail
    scores[#scores + 1] = now
    scores[#scores + 1] = tag
    out[#out + 1] = {message, tag, list, revoked}
  end
end
if #out > 0 then
  redis.call('HSET', KEYS[1], unpack(entries))
  redis.call('ZADD', KEYS[2], unpack(scores))
  redis.call('ZADD', KEYS[3], unpack(scores))
elseif refused then
  return refused
end
return out
