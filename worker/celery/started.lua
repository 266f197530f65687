-- Writes and publishes STARTED for messages that are still held: a result that
-- came meanwhile stays.
-- KEYS: unacked. ARGV, four for each: tag, key of the result, the result, its
-- time to live in milliseconds.
redis.call('HDEL', KEYS[1], '') -- lets the rest through when memory is full: see finish.lua
for i = 1, #ARGV, 4 do
  if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1 then
    redis.call('SET', ARGV[i + 1], ARGV[i + 2], 'PX', ARGV[i + 3])
    redis.call('PUBLISH', ARGV[i + 1], ARGV[i + 2])
  end
end
return 0
