-- Puts entries of unacked back, each only if it is as it was found: its holder
-- may have come back to life, or somebody else was faster.
-- KEYS: unacked, unacked_index, weir.running.
-- ARGV, eight for each: tag, score that it had, list, message, and how many dead
-- letters are kept if the list is one of them (else 0); key of its result, empty
-- for none, the result, its time to live in milliseconds.
-- Returns for each 1 if it was put back, else 0.
local out, refused = {}, nil
for i = 1, #ARGV, 8 do
  local tag, put = ARGV[i], 0
  if (redis.call('ZSCORE', KEYS[2], tag) or '') == ARGV[i + 1] and redis.call('HEXISTS', KEYS[1], tag) == 1 then
    redis.call('HDEL', KEYS[1], '') -- lets the rest through when memory is full: see finish.lua
    local kept = tonumber(ARGV[i + 4])
    -- A list of another type keeps no other message back.
    local pushed = redis.pcall(kept > 0 and 'LPUSH' or 'RPUSH', ARGV[i + 2], ARGV[i + 3])
    if type(pushed) == 'table' then
      refused = pushed
    else
      if kept > 0 then
        redis.call('LTRIM', ARGV[i + 2], 0, kept - 1)
      end
      redis.call('HDEL', KEYS[1], tag)
      redis.call('ZREM', KEYS[2], tag)
      redis.call('ZREM', KEYS[3], tag)
      if ARGV[i + 5] ~= '' then
        redis.call('SET', ARGV[i + 5], ARGV[i + 6], 'PX', ARGV[i + 7])
        redis.call('PUBLISH', ARGV[i + 5], ARGV[i + 6])
      end
      put = 1
    end
  end
  out[#out + 1] = put
end
return refused or out
