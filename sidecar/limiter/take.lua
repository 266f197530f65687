-- Two kinds of log, both with the times at which units leave a window that
-- ends now, by this server's clock. All KEYS lie in one hash slot, and each call
-- decides a batch of commands one after the other: each sees what those before
-- it have taken.
--
-- The exact log is a sorted set: its members the units taken, their scores the
-- microseconds at which they were. The sliced log is a string: a head, and a
-- ring of weights, one for each slice of time; a unit stands in the slice that
-- ends after its use, and leaves with that end. Limits above EXACT have it.
--
-- ARGV: the caller's time in microseconds, or '' for this server's; then for each command
-- its verb, its random id, its number of logs, two numbers, and limit, window
-- (microseconds) and cost for each of its logs:
--   take    the numbers are how many more such takes are wanted for a lease, and
--           its length in microseconds. A length alone: 'give' may follow.
--   peek    0 0
--   give    0 and the take's length: takes back what the take of that id took
--   settle  the numbers are the pairs that follow at once, and the lease's
--           length. Each pair: takes used, and how many microseconds after the
--           grant at the latest. What was not used is taken back.
--   note    the numbers are the pairs that follow at once, and how long the id is
--           remembered. Each pair: units that were admitted while this server did
--           not decide, and how many microseconds ago. They count whatever the
--           limit is.
--   reset   0 and some length: takes out what was taken until now. What leases
--           hold stays, and with them what else is in the slice of now.
-- KEYS: each command's logs; where it has a length, each followed by a hash of
-- the leases of that log, or of what was noted in it.
--
-- Replies with integers: the time; then for each command but settle, note and reset 1
-- when admitted (of peek and give: when a take would be), else 0; the takes of
-- the lease; then for each of its logs the units remaining, the microseconds
-- until more remain, and those until the limit alone admits the cost (-1: never);
-- or, of a take that was admitted, how long after the time the log has it.
--
-- A time has 16 digits and Lua's own conversion to a string keeps 14: every
-- time that goes to Redis passes decimal().
local EXACT = 128 -- units; a sorted set of as many is a listpack
local SLICES, RING = 200, 256 -- of a window; a ring has room for leases too
local SHARE = 8 -- a lease is at most such a part of what remains
local HEAD = 64 -- bytes: units, first slice, newest time, last slice
local MOST = 512 -- units of an exact log, where they are noted
local NOTES = 1024 -- ids of notes of a log: of more, all are forgotten
local OPEN = 64 -- leases of a log: of more, all are forgotten, and leave with their window

local now = tonumber(ARGV[1])
if not now then
  local time = redis.pcall('TIME')
  if time.err then
    return redis.error_reply('NOTIME ' .. time.err)
  end
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function decimal(number)
  return string.format('%.0f', number)
end

-- lifetime of a log in milliseconds, from now on. It has a second to spare: it
-- is counted from a clock that Redis reads before the script runs.
local function lifetime(micros)
  return decimal(math.ceil(micros / 1000) + 1000)
end

local exact = {}

-- member names a unit of a take.
local function member(key, unit)
  if key.cost == 1 then
    return key.id
  end
  return key.id .. ':' .. unit
end

local function score(key, rank)
  return tonumber(redis.call('ZRANGE', key.name, rank, rank, 'WITHSCORES')[2])
end

-- read counts the units within the window that ends at the key's own time.
-- That time never runs backwards, also when the server's does. It is the
-- key's, not the request's: another key's time would free this one's early.
function exact.read(key)
  key.time, key.stale, key.oldest = now, 0, nil
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

-- add records a take. What is there already stays as it is: a take that came
-- again because its reply was lost.
function exact.add(key)
  if key.stale > 0 then
    redis.call('ZREMRANGEBYSCORE', key.name, '-inf', decimal(key.cut))
    key.stale = 0
  end
  local time, args = decimal(key.time), {}
  for unit = 1, key.cost do
    args[#args + 1] = time
    args[#args + 1] = member(key, unit)
  end
  local added = redis.call('ZADD', key.name, 'NX', unpack(args))
  key.count = key.count + added
  if added == 0 then
    key.at = tonumber(redis.call('ZSCORE', key.name, args[2]))
  end
  key.oldest = key.oldest or key.count == key.cost and key.time or nil
  redis.call('PEXPIRE', key.name, lifetime(key.window))
end

-- note adds units that were taken a while ago: the newest first, if there is no
-- room for all.
function exact.note(key, uses)
  if key.stale > 0 then
    redis.call('ZREMRANGEBYSCORE', key.name, '-inf', decimal(key.cut))
  end
  local room, added = MOST - key.count, 0
  for i = #uses, 1, -1 do
    local at = key.time - uses[i].within
    if at > key.time - key.window then
      for unit = 1, math.min(uses[i].takes, room) do
        redis.call('ZADD', key.name, 'NX', decimal(at), key.id .. ':' .. i .. ':' .. unit)
        room, added = room - 1, added + 1
      end
    end
  end
  if added > 0 then
    redis.call('PEXPIRE', key.name, lifetime(key.window))
  end
end

function exact.remove(key)
  for unit = 1, key.cost do
    redis.call('ZREM', key.name, member(key, unit))
  end
end

-- leaves is the time until the unit at a rank within the window leaves it.
function exact.leaves(key, rank)
  local at = rank == 0 and key.oldest or score(key, key.stale + rank)
  return at + key.window - now
end

local sliced = {}

local function weight(ring, slice)
  local at = HEAD + slice % RING * 4
  local a, b, c, d = string.byte(ring, at + 1, at + 4)
  return ((a * 256 + b) * 256 + c) * 256 + d
end

local function set_weight(key, slice, units)
  local at, bytes = HEAD + slice % RING * 4, {}
  for i = 4, 1, -1 do
    bytes[i] = string.char(units % 256)
    units = math.floor(units / 256)
  end
  bytes = table.concat(bytes)
  redis.call('SETRANGE', key.name, at, bytes)
  key.ring = string.sub(key.ring, 1, at) .. bytes .. string.sub(key.ring, at + 5)
end

-- clear empties the places of a ring from one up to another.
local function clear(key, from, to)
  if from < to then
    local at, zeros = HEAD + from * 4, string.rep('\0', (to - from) * 4)
    redis.call('SETRANGE', key.name, at, zeros)
    key.ring = string.sub(key.ring, 1, at) .. zeros .. string.sub(key.ring, at + #zeros + 1)
  end
end

local function set_head(key)
  redis.call('SETRANGE', key.name, 0,
    string.format('%016.0f%016.0f%016.0f%016.0f', key.count, key.first or 0, key.time, key.last))
end

-- slice_of is the number of the slice in which a time lies; its end is the
-- number times the length.
local function slice_of(key, time)
  return math.ceil(time / key.slice)
end

function sliced.read(key)
  key.slice = math.ceil(key.window / SLICES)
  key.time, key.count, key.first, key.last, key.expired = now, 0, nil, 0, nil
  key.ring = redis.call('GET', key.name)
  if not key.ring then
    return
  end
  if #key.ring ~= HEAD + RING * 4 then
    redis.call('ZCARD', key.name) -- not ours: it fails and says so
  end
  key.count = tonumber(string.sub(key.ring, 1, 16))
  local first = tonumber(string.sub(key.ring, 17, 32))
  key.time = math.max(now, tonumber(string.sub(key.ring, 33, 48)))
  key.last = tonumber(string.sub(key.ring, 49, 64))
  local cut = math.floor((key.time - key.window) / key.slice)
  if key.count > 0 and first <= cut then
    key.expired = first
    while key.count > 0 and first <= cut do
      key.count = key.count - weight(key.ring, first)
      first = first + 1
    end
    while key.count > 0 and weight(key.ring, first) == 0 do
      first = first + 1
    end
  end
  if key.count > 0 then
    key.first = first
  end
end

-- trim makes the log what read has found in it.
local function trim(key)
  if key.count == 0 then
    key.ring = string.rep('\0', HEAD + RING * 4)
    redis.call('SET', key.name, key.ring)
    key.last = 0
  elseif key.expired then
    local from, to = key.expired % RING, key.first % RING
    clear(key, from, from < to and to or RING)
    clear(key, 0, from < to and 0 or to)
  end
  key.expired = nil
end

-- put has units leave with a slice.
local function put(key, slice, units)
  set_weight(key, slice, weight(key.ring, slice) + units)
  key.count = key.count + units
  key.first = math.min(key.first or slice, slice)
  if slice > key.last then
    key.last = slice
    redis.call('PEXPIRE', key.name, lifetime(slice * key.slice + key.window - now))
  end
end

-- move has units leave with another slice than they would; with none: now.
local function move(key, units, from, to)
  if not key.first or from < key.first then
    return -- they have left
  end
  local held = weight(key.ring, from)
  units = math.min(units, held)
  set_weight(key, from, held - units)
  key.count = key.count - units
  if to and to * key.slice > key.time - key.window then
    put(key, to, units)
  end
  while key.count > 0 and weight(key.ring, key.first) == 0 do
    key.first = key.first + 1
  end
  if key.count == 0 then
    key.first = nil
  end
end

function sliced.add(key, lease)
  trim(key)
  put(key, slice_of(key, key.time), key.cost)
  if lease.takes > 0 then
    put(key, slice_of(key, key.time + lease.length), lease.takes * key.cost)
  end
  set_head(key)
  if lease.takes > 0 or lease.gives then
    if redis.call('HLEN', key.leases) >= OPEN then
      redis.call('DEL', key.leases)
    end
    redis.call('HSET', key.leases, key.id, decimal(key.time) .. ' ' .. decimal(lease.takes))
    redis.call('PEXPIRE', key.leases, lifetime(2 * lease.length))
  end
end

-- granted is when a take with a lease's length was admitted, and the takes of
-- its lease; nil when that is not known.
local function granted(key)
  local found = redis.call('HGET', key.leases, key.id)
  if found then
    local time, takes = string.match(found, '(%d+) (%d+)')
    return tonumber(time), tonumber(takes)
  end
end

-- settle has the units of a lease leave with the slices in which they were
-- used, and those that were not at once.
local function settle(key, length, uses)
  local time, left = granted(key)
  redis.call('HDEL', key.leases, key.id)
  sliced.read(key)
  if not time or not key.first then
    return
  end
  trim(key)
  local from = slice_of(key, time + length)
  for _, use in ipairs(uses) do
    local used = math.min(use.takes, left)
    left = left - used
    move(key, used * key.cost, from, slice_of(key, time + math.min(use.within, length)))
  end
  move(key, left * key.cost, from, nil)
  set_head(key)
end

function sliced.remove(key)
  local time = granted(key)
  redis.call('HDEL', key.leases, key.id)
  sliced.read(key)
  if time and key.first then
    trim(key)
    move(key, key.cost, slice_of(key, time), nil)
    set_head(key)
  end
end

function sliced.note(key, uses)
  trim(key)
  for _, use in ipairs(uses) do
    local slice = slice_of(key, key.time - use.within)
    if slice * key.slice > key.time - key.window then
      put(key, slice, use.takes)
    end
  end
  if key.first then
    set_head(key)
  else
    redis.call('DEL', key.name)
  end
end

function sliced.leaves(key, rank)
  if rank == 0 then
    return key.first * key.slice + key.window - now
  end
  local slice, units = key.first, 0
  while true do
    units = units + weight(key.ring, slice)
    if units > rank then
      return slice * key.slice + key.window - now
    end
    slice = slice + 1
  end
end

-- convert makes a sliced log of an exact one, when the limit has been raised.
local function convert(key)
  exact.read(key)
  local time, entries = key.time, {}
  if key.count > 0 then
    entries = redis.call('ZRANGE', key.name, key.stale, -1, 'WITHSCORES')
  end
  redis.call('DEL', key.name)
  sliced.read(key)
  key.time = time
  trim(key)
  for i = 2, #entries, 2 do
    put(key, slice_of(key, tonumber(entries[i])), 1)
  end
  set_head(key)
end

-- log finds which kind a key is. One that is sliced remains so while it lives.
local function log(key)
  local kind = redis.call('TYPE', key.name)
  kind = kind.ok or kind
  if kind == 'zset' and key.limit > EXACT then
    convert(key)
    return sliced
  end
  if kind == 'string' or kind ~= 'zset' and key.limit > EXACT then
    return sliced
  end
  return exact
end

local reply = {now}

-- leased says how many takes there may be in a lease: none near a limit, nor
-- where an exact log must hold them.
local function leased(keys, wanted, length)
  for _, key in ipairs(keys) do
    if key.log == exact or key.limit <= EXACT or key.window < 5 * length then
      return 0
    end
    wanted = math.min(wanted, math.floor((key.limit - key.count - key.cost) / key.cost / SHARE))
  end
  return math.max(0, wanted)
end

-- known finds a take that comes again because its reply was lost: it was
-- admitted already. The exact log with the longest window tells, as it keeps
-- the id when the others have let it go, or the leases do; and if neither is
-- there the take counts again. With one exact log, and room in it, adding tells.
local function known(keys, fits, length)
  local longest
  for _, key in ipairs(keys) do
    if key.log == exact and (not longest or key.window > longest.window) then
      longest = key
    end
  end
  if longest then
    return (not fits or #keys > 1) and redis.call('ZSCORE', longest.name, member(longest, 1)), 0
  end
  if length > 0 then
    return granted(keys[1])
  end
end

-- decide answers the command of some keys.
local function decide(verb, keys, wanted, length)
  local fits = true
  for _, key in ipairs(keys) do
    key.log = log(key)
    if verb == 'give' then
      key.log.remove(key)
    end
    key.log.read(key)
    fits = fits and key.count + key.cost <= key.limit
  end

  local before, takes
  if verb == 'take' then
    before, takes = known(keys, fits, length)
    if fits and not before then
      local lease = {takes = leased(keys, wanted, length), length = length, gives = length > 0 and wanted == 0}
      takes = lease.takes
      for _, key in ipairs(keys) do
        key.log.add(key, lease)
      end
    end
  end

  local admitted = (fits or before) and 1 or 0
  reply[#reply + 1] = admitted
  reply[#reply + 1] = takes or 0
  for _, key in ipairs(keys) do
    local reset, retry = 0, 0
    if key.count > 0 then
      reset = key.log.leaves(key, math.max(0, key.count - key.limit))
    end
    if key.cost > key.limit then
      retry = -1
    elseif key.count + key.cost > key.limit then
      retry = key.log.leaves(key, key.count + key.cost - key.limit - 1)
    end
    if verb == 'take' and admitted == 1 then
      retry = (before and tonumber(before) or key.at or key.time) - now
    end
    reply[#reply + 1] = math.max(0, key.limit - key.count)
    reply[#reply + 1] = reset
    reply[#reply + 1] = retry
  end
end

-- note counts what was admitted without this server, once.
local function note(key, length, uses)
  if granted(key) then
    return
  end
  local kind = log(key)
  kind.read(key)
  kind.note(key, uses)
  if redis.call('HLEN', key.leases) >= NOTES then
    redis.call('DEL', key.leases)
  end
  redis.call('HSET', key.leases, key.id, decimal(key.time) .. ' 0')
  redis.call('PEXPIRE', key.leases, lifetime(2 * length))
end

-- reset empties a log but for what leases hold, which is in slices that end later.
local function reset(key)
  if log(key) == exact or redis.call('HLEN', key.leases) == 0 then
    redis.call('DEL', key.name)
    return
  end
  sliced.read(key)
  local current = slice_of(key, key.time)
  trim(key)
  while key.count > 0 and key.first < current do
    key.count = key.count - weight(key.ring, key.first)
    set_weight(key, key.first, 0)
    key.first = key.first + 1
    while key.count > 0 and weight(key.ring, key.first) == 0 do
      key.first = key.first + 1
    end
  end
  if key.count == 0 then
    redis.call('DEL', key.name)
  else
    set_head(key)
  end
end

local at, names = 2, 0

-- numbers reads so many arguments.
local function numbers(n)
  local values = {}
  for i = 1, n do
    values[i] = tonumber(ARGV[at])
    at = at + 1
  end
  return unpack(values)
end

while ARGV[at] do
  local verb, id, keys, uses = ARGV[at], ARGV[at + 1], {}, {}
  at = at + 2
  local logs, number, length = numbers(3)
  for i = 1, (verb == 'settle' or verb == 'note') and number or 0 do
    local takes, within = numbers(2)
    uses[i] = {takes = takes, within = within}
  end
  for i = 1, logs do
    local limit, window, cost = numbers(3)
    names = names + 1
    keys[i] = {id = id, name = KEYS[names], limit = limit, window = window, cost = cost}
    if length > 0 then
      names = names + 1
      keys[i].leases = KEYS[names]
    end
  end
  if verb == 'settle' then
    for _, key in ipairs(keys) do
      if log(key) == sliced then
        settle(key, length, uses)
      end
    end
  elseif verb == 'note' then
    for _, key in ipairs(keys) do
      note(key, length, uses)
    end
  elseif verb == 'reset' then
    for _, key in ipairs(keys) do
      reset(key)
    end
  else
    decide(verb, keys, number, length)
  end
end
return reply
