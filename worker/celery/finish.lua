-- Ends the taking of messages: writes and publishes their results, and puts
-- them where they go next, if anywhere.
-- KEYS: unacked, unacked_index, weir.running.
-- ARGV, nine for each message, of at most 256: 1 tag; 2 key of its result, empty
-- for none; 3 the result; 4 its time to live in milliseconds; 5 where the
-- message goes: done, front (taken next),
-- park or dead; 6 the list it goes to; 7 what is put there; 8 for park the
-- score, for dead how many are kept; 9 for park the new tag.
-- Returns how many were held by nobody any more: somebody put those back
-- meanwhile, so they are not put anywhere again.
local lost, tags, done = 0, {}, {}
-- A script that has written may go on when Redis has no memory left. This writes
-- nothing, and lets acknowledgements through, which free some.
redis.call('HDEL', KEYS[1], '')
for i = 1, #ARGV, 9 do
  local tag, where = ARGV[i], ARGV[i + 4]
  local held = true
  tags[#tags + 1] = tag
  if where == 'done' then
    done[#done + 1] = tag
  else
    -- First where it goes, then out of unacked: a list of another type fails the
    -- script, and must not lose the message.
    held = redis.call('HEXISTS', KEYS[1], tag) == 1
    if not held then
      lost = lost + 1
    elseif where == 'front' then
      redis.call('RPUSH', ARGV[i + 5], ARGV[i + 6])
    elseif where == 'park' then
      redis.call('HSET', KEYS[1], ARGV[i + 8], ARGV[i + 6])
      redis.call('ZADD', KEYS[2], ARGV[i + 7], ARGV[i + 8])
    elseif where == 'dead' then
      redis.call('LPUSH', ARGV[i + 5], ARGV[i + 6])
      redis.call('LTRIM', ARGV[i + 5], 0, tonumber(ARGV[i + 7]) - 1)
    end
    redis.call('HDEL', KEYS[1], tag)
  end
  if held and ARGV[i + 1] ~= '' then
    redis.call('SET', ARGV[i + 1], ARGV[i + 2], 'PX', ARGV[i + 3])
    redis.call('PUBLISH', ARGV[i + 1], ARGV[i + 2])
  end
end
if #done > 0 then
  lost = lost + #done - redis.call('HDEL', KEYS[1], unpack(done))
end
redis.call('ZREM', KEYS[2], unpack(tags))
redis.call('ZREM', KEYS[3], unpack(tags))
return lost
