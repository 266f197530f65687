-- The exact log: one sorted set for each (identity, window), its members the
-- units taken, their scores the microseconds of this server's clock at which
-- they were. All KEYS lie in one hash slot, and each call decides a batch of
-- takes one after the other: each sees what those before it have taken.
--
-- ARGV: the time in microseconds or '' for this server's; then for each take
-- its verb ('take', 'peek' or 'give'), its random id, its number of keys, and
-- limit, window (microseconds) and cost for each of these.
--
-- Replies with integers, for each take: 1 when admitted (of peek and give: when
-- a take would be), else 0; then for each of its keys the units remaining, the
-- microseconds until more remain, and those until the limit alone admits the
-- cost (-1: never).
--
-- A time has 16 digits and Lua's own conversion to a string keeps 14: every
-- time that goes to Redis passes decimal().
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function decimal(number)
  return string.format('%.0f', number)
end

-- member names a unit of a take.
local function member(key, unit)
  if key.cost == 1 then
    return key.id
  end
  return key.id .. ':' .. unit
end

-- add writes all units of a take. What is there already stays as it is: a take
-- that came again because its reply was lost. It returns how many were new.
local function add(key)
  local score, added, args = decimal(key.time), 0, {}
  for unit = 1, key.cost do
    args[#args + 1] = score
    args[#args + 1] = member(key, unit)
    if #args >= 1000 or unit == key.cost then -- what Lua's stack holds
      added = added + redis.call('ZADD', key.name, 'NX', unpack(args))
      args = {}
    end
  end
  return added
end

-- remove takes all units of a take back.
local function remove(key)
  for unit = 1, key.cost do
    redis.call('ZREM', key.name, member(key, unit))
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
  key.oldest = score(key, 0)
  if key.oldest <= key.cut then
    key.oldest = nil
    key.stale = redis.call('ZCOUNT', key.name, '-inf', decimal(key.cut))
    key.count = key.count - key.stale
  end
end

-- write records the take. The expiry has a second to spare: it is counted from
-- a clock that Redis reads before the script runs.
local function write(key)
  if key.stale > 0 then
    redis.call('ZREMRANGEBYSCORE', key.name, '-inf', decimal(key.cut))
    key.stale = 0
  end
  key.count = key.count + add(key)
  key.oldest = key.oldest or key.count == key.cost and key.time or nil
  redis.call('PEXPIRE', key.name, decimal(math.ceil(key.window / 1000) + 1000))
end

-- leaves is the time until the unit at a rank within the window leaves it.
local function leaves(key, rank)
  local at = rank == 0 and key.oldest or score(key, key.stale + rank)
  return at + key.window - now
end

local reply = {}

-- decide answers the take of some keys.
local function decide(verb, keys)
  local longest, fits = nil, true
  for _, key in ipairs(keys) do
    if verb == 'give' then
      remove(key)
    end
    read(key)
    fits = fits and key.count + key.cost <= key.limit
    if not longest or key.window > longest.window then
      longest = key
    end
  end

  -- A take that comes again because its reply was lost was admitted already. The
  -- longest window tells: it keeps the id when the others have let it go. With
  -- one window, and room in it, adding tells by itself.
  local known = verb == 'take' and (not fits or #keys > 1) and redis.call('ZSCORE', longest.name, member(longest, 1))
  if verb == 'take' and fits and not known then
    for _, key in ipairs(keys) do
      write(key)
    end
  end

  local admitted = (fits or known) and 1 or 0
  reply[#reply + 1] = admitted
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
end

local at, names = 2, 0
while ARGV[at] do
  local verb, id, keys = ARGV[at], ARGV[at + 1], {}
  local count = tonumber(ARGV[at + 2])
  at = at + 3
  for i = 1, count do
    names = names + 1
    keys[i] = {
      id = id,
      name = KEYS[names],
      limit = tonumber(ARGV[at]),
      window = tonumber(ARGV[at + 1]),
      cost = tonumber(ARGV[at + 2]),
    }
    at = at + 3
  end
  decide(verb, keys)
end
return reply
