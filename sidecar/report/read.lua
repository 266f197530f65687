-- Reads a policy's keys, and no more of them than Weir writes, whoever wrote.
--
-- KEYS     hashes, sorted sets, a list or none
-- ARGV     how many hashes, how many sorted sets, how many of a set, how many of
--          the list; the longest number, member and element, in bytes; then the
--          fields of the hashes
--
-- Returns for each hash the values of the fields, for each set members and
-- scores in turn, and for the list its elements.
local hashes, sets = tonumber(ARGV[1]), tonumber(ARGV[2])
local most, last = tonumber(ARGV[3]), tonumber(ARGV[4])

local refused
local function bounded(longest, reply)
  if reply.err then
    if not string.find(reply.err, 'WRONGTYPE', 1, true) then refused = reply end
    return {}
  end
  longest = tonumber(longest)
  for i = 1, #reply do
    if reply[i] and #reply[i] > longest then reply[i] = false end
  end
  return reply
end

local found = {}
for i = 1, #KEYS do
  if i <= hashes then
    found[i] = bounded(ARGV[5], redis.pcall('HMGET', KEYS[i], unpack(ARGV, 8)))
  elseif i <= hashes + sets then
    found[i] = bounded(ARGV[6], redis.pcall('ZREVRANGE', KEYS[i], 0, most - 1, 'WITHSCORES'))
  else
    found[i] = bounded(ARGV[7], redis.pcall('LRANGE', KEYS[i], 0, last - 1))
  end
end
return refused or found
