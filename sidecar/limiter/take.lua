-- The exact log: one sorted set for each (identity, window), its members the
-- units taken, their scores the microseconds of this server's clock at which
-- they were. All KEYS lie in one hash slot and are decided together.
--
-- ARGV: verb ('take', 'peek' or 'give'), the take's random id, the time in
-- microseconds or '' for this server's; then limit, window (microseconds) and
-- cost for each key.
--
-- Replies with integers: 1 when admitted (of peek and give: when a take would
-- be), else 0; then for each key the units remaining, the microseconds until
-- more remain, and those until the limit alone admits the cost (-1: never).
--
-- A time has 16 digits and Lua's own conversion to a string keeps 14: every
-- time that goes to Redis passes decimal().
local verb, id, now = ARGV[1], ARGV[2], nil

if ARGV[3] == '' then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
else
  now = tonumber(ARGV[3])
end

local function decimal(number)
  return string.format('%.0f', number)
end

-- member names a unit of the take.
local function member(key, unit)
  if key.cost == 1 then
    return id
  end
  return id .. ':' .. unit
end

-- units runs a command with all members of the take (and their score when it
-- is given), in pieces that Lua's stack holds.
local function units(command, key, score)
  local args = {}
  for unit = 1, key.cost do
    if score then
      args[#args + 1] = score
    end
    args[#args + 1] = member(key, unit)
    if #args >= 1000 or unit == key.cost then
      redis.call(command, key.name, unpack(args))
      args = {}
    end
  end
end

local function score(key, rank)
  return tonumber(redis.call('ZRANGE', key.name, rank, rank, 'WITHSCORES')[2])
end

-- read counts the units within the window that ends at the key's own time.
-- That time never runs backwards, also when the server's does. It is the
-- key's, not the request's: another key's time would free this one's early.
local function read(key)
  key.time, key.stale = now, 0
  key.count = redis.call('ZCARD', key.name)
  if key.count == 0 then
    return
  end
  key.time = math.max(now, score(key, -1))
  key.cut = key.time - key.window
  if score(key, 0) <= key.cut then
    key.stale = redis.call('ZCOUNT', key.name, '-inf', decimal(key.cut))
    key.count = key.count - key.stale
  end
end

-- write records the take. The expiry has a second to spare: it is counted from
-- a clock that Redis reads before the script runs.
local function write(key)
  if key.stale > 0 then
    redis.call('ZREMRANGEBYSCORE', key.name, '-inf', decimal(key.cut))
  end
  units('ZADD', key, decimal(key.time))
  redis.call('PEXPIRE', key.name, decimal(math.ceil(key.window / 1000) + 1000))
  key.count, key.stale = key.count + key.cost, 0
end

-- leaves is the time until the unit at a rank within the window leaves it.
local function leaves(key, rank)
  return score(key, key.stale + rank) + key.window - now
end

local keys, longest, fits = {}, nil, true
for i, name in ipairs(KEYS) do
  local key = {
    name = name,
    limit = tonumber(ARGV[3 * i + 1]),
    window = tonumber(ARGV[3 * i + 2]),
    cost = tonumber(ARGV[3 * i + 3]),
  }
  if verb == 'give' then
    units('ZREM', key)
  end
  read(key)
  fits = fits and key.count + key.cost <= key.limit
  if not longest or key.window > longest.window then
    longest = key
  end
  keys[i] = key
end

-- A take that comes again because its reply was lost was admitted already. The
-- longest window tells: it keeps the id when the others have let it go.
local known = verb == 'take' and redis.call('ZSCORE', longest.name, member(longest, 1))
if verb == 'take' and fits and not known then
  for _, key in ipairs(keys) do
    write(key)
  end
end

local admitted = (fits or known) and 1 or 0
local reply = {admitted}
for _, key in ipairs(keys) do
  local reset, retry = 0, 0
  if key.count > 0 then
    reset = leaves(key, math.max(0, key.count - key.limit))
  end
  if key.cost > key.limit then
    retry = -1
  elseif key.count + key.cost > key.limit then
    retry = leaves(key, key.count + key.cost - key.limit - 1)
  end
  if verb == 'take' and admitted == 1 then
    retry = 0
  end
  reply[#reply + 1] = math.max(0, key.limit - key.count)
  reply[#reply + 1] = reset
  reply[#reply + 1] = retry
end
return reply
