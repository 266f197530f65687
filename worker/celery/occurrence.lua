-- Enqueues an occurrence of a PeriodicTask, once, as its concurrency policy says.
-- KEYS: 1 hash of the PeriodicTask; 2 set of occurrences that were seen before;
-- 3 list; 4 key of the result; 5 weir.revoked.
-- ARGV: 1 id; 2 name of the Job; 3 message; 4 PENDING; 5 its time to live in
-- milliseconds; 6 Allow, Forbid or Replace; 7 time to live of the hash, in
-- milliseconds; 8 prefix of results' keys; 9 until when, in milliseconds from
-- now, a run that does not end counts as unfinished; 10 time to live of the set.
-- Returns what became of it (enqueued, repeated, skipped, replaced), and the id
-- of the run before.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local before = redis.call('HMGET', KEYS[1], 'id', 'unfinished_until', 'replaced_job', 'replaced_id')
if redis.call('SISMEMBER', KEYS[2], ARGV[1]) == 1 then
  if before[1] == ARGV[1] and before[3] == ARGV[2] then
    return {'replaced', before[4]} -- the earlier pod may not have said so to the workers
  end
  return {'repeated', ARGV[1]}
end
-- Remembered after it is there: what fails before is tried again.
local function remember()
  redis.call('SADD', KEYS[2], ARGV[1])
  redis.call('PEXPIRE', KEYS[2], ARGV[10])
end
local unfinished = false
if ARGV[6] ~= 'Allow' and before[1] and now < tonumber(before[2] or 0) then
  local result = redis.call('GET', ARGV[8] .. before[1])
  local readable, decoded = pcall(cjson.decode, result or '')
  local status = readable and type(decoded) == 'table' and decoded.status
  -- Tasks of Celery's have states of their own, such as PROGRESS.
  unfinished = type(status) == 'string' and status ~= 'SUCCESS' and status ~= 'FAILURE' and status ~= 'REVOKED'
    and status ~= 'REJECTED' and status ~= 'IGNORED'
end
local at = string.format('%.0f', now)
if unfinished and ARGV[6] == 'Forbid' then
  redis.call('HSET', KEYS[1], 'skipped_id', ARGV[1], 'skipped_job', ARGV[2], 'skipped_at', at)
  redis.call('PEXPIRE', KEYS[1], ARGV[7])
  remember()
  return {'skipped', before[1]}
end
redis.call('ZCARD', KEYS[5]) -- of another type: fails before anything is written
redis.call('LPUSH', KEYS[3], ARGV[3])
redis.call('SET', KEYS[4], ARGV[4], 'PX', ARGV[5])
local said = 'enqueued'
if unfinished then
  said = 'replaced'
  redis.call('HSET', KEYS[1], 'replaced_id', before[1], 'replaced_job', ARGV[2], 'replaced_at', at)
  redis.call('ZADD', KEYS[5], string.format('%.0f', now + tonumber(ARGV[5])), before[1])
end
redis.call('HSET', KEYS[1], 'id', ARGV[1], 'job', ARGV[2], 'at', at,
  'unfinished_until', string.format('%.0f', now + tonumber(ARGV[9])))
redis.call('PEXPIRE', KEYS[1], ARGV[7])
remember()
return {said, before[1] or ''}
