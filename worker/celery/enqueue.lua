-- Enqueues calls, each once.
-- KEYS: set of the ids that were enqueued before; then for each call its list,
-- and the key of its result.
-- ARGV: the set's time to live in milliseconds; then for each call its id, the
-- message, the PENDING result (empty: none) and its time to live in milliseconds.
-- Returns how many were new.
local count = 0
for call = 1, (#KEYS - 1) / 2 do
  local i = 4 * call - 2
  if redis.call('SISMEMBER', KEYS[1], ARGV[i]) == 0 then
    -- Remembered after it is there: what fails here is tried again.
    redis.call('LPUSH', KEYS[2 * call], ARGV[i + 1])
    redis.call('SADD', KEYS[1], ARGV[i])
    if count == 0 then
      redis.call('PEXPIRE', KEYS[1], ARGV[1])
    end
    if ARGV[i + 2] ~= '' then
      redis.call('SET', KEYS[2 * call + 1], ARGV[i + 2], 'PX', ARGV[i + 3])
    end
    count = count + 1
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return count
