-- Puts entries of unacked back, each only if it is as it was found: its holder
-- may have come back to life, or somebody else was faster.
-- KEYS: unacked, unacked_index, weir.running.
-- ARGV, eight for each: tag, score that it had, list, message, and how many dead
-- letters are kept if the list is one of them (else 0); key of its result, empty
-- for none, the result, its time to live in milliseconds.
-- Returns how many were put back.
local count = 0
for i = 1, #ARGV, 8 do
  local tag = ARGV[i]
  if (redis.call('ZSCORE', KEYS[2], tag) or '') == ARGV[i + 1] and redis.call('HDEL', KEYS[1], tag) == 1 then
    redis.call('ZREM', KEYS[2], tag)
    redis.call('ZREM', KEYS[3], tag)
    local kept = tonumber(ARGV[i + 4])
    if kept > 0 then
      redis.call('LPUSH', ARGV[i + 2], ARGV[i + 3])
      redis.call('LTRIM', ARGV[i + 2], 0, kept - 1)
    else
      redis.call('RPUSH', ARGV[i + 2], ARGV[i + 3])
    end
    if ARGV[i + 5] ~= '' then
      redis.call('SET', ARGV[i + 5], ARGV[i + 6], 'PX', ARGV[i + 7])
      redis.call('PUBLISH', ARGV[i + 5], ARGV[i + 6])
    end
    count = count + 1
  end
end
return count
