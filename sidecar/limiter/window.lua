-- Reads the logs of one caller as they are, and changes nothing.
--
-- KEYS: the logs, as take.lua writes them. ARGV: the caller's time in microseconds,
-- or '' for this server's; how many bytes a log has at most.
--
-- Replies with the time and each log's bytes, '' for one that is not there.
local reply = {tonumber(ARGV[1])}
if not reply[1] then
  local time = redis.pcall('TIME')
  if time.err then
    return redis.error_reply('NOTIME ' .. time.err)
  end
  reply[1] = time[1] * 1000000 + time[2]
end
for i = 1, #KEYS do
  reply[i + 1] = redis.call('GET', KEYS[i]) or ''
  if #reply[i + 1] > tonumber(ARGV[2]) then
    return redis.error_reply('WRONGTYPE a key is no log of takes')
  end
end
return reply
