-- Two kinds of log, both with the times at which units leave a window that
-- ends now, by this server's clock. All KEYS lie in one hash slot, and each call
-- decides a batch of commands one after the other: each sees what those before
-- it have taken.
--
-- Both are strings: what a take costs is the number of Redis's commands. Numbers
-- in them are bytes, the most significant first.
--
-- The exact log is a head (its kind, and the sum before its first entry, 3 bytes)
-- and an entry for each take: the microsecond of its admission (7), the units
-- taken until then, its own included (3, so modulo 2^24), and its id (9).
--
-- The sliced log is a head (its kind, its units (4), the first slice that has
-- some, the newest time, the last slice (7 each)) and a ring of weights, 4 bytes
-- for each slice of time. A unit stands in the slice that ends after its use, and
-- leaves with that end. Limits above EXACT have it. The ring is right from RING
-- slices before the last one on; those before the first have left.
--
-- ARGV: the caller's time in microseconds, or '' for this server's; then for each command
-- its verb, its random id, and a JSON list of its numbers: two, and limit, window
-- (microseconds) and cost for each of its logs.
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
--   reset   0 and some length: takes out what was taken until now, but what open
--           leases hold.
-- KEYS: each command's logs; where it has a length, each followed by a hash of
-- the leases of that log, or of what was noted in it.
--
-- Replies with integers: the time; then for each command but settle, note and
-- reset 1 when admitted (of peek and give: when a take would be), else 0; the takes
-- of the lease, or of a take that is refused 1 if leases may yet be given back to
-- one of its logs; then for each of its logs the units remaining, the microseconds
-- until more remain, and those until the limit alone admits the cost (-1: never);
-- or, of a take that was admitted, how long after the time the log has it.
local EXACT = 128 -- units
local SLICES, RING = 200, 256 -- of a window; a ring has room for leases too
local SHARE = 8 -- a lease is at most such a part of what remains
local MOST = 512 -- units of an exact log, where they are noted
local STALE = 32 -- entries of an exact log that have left and are not cut off yet
local RENEW = 16 -- a key's lifetime is renewed once in such a part of its window
local NOTES = 1024 -- ids of notes of a log: of more, all are forgotten
local SETTLED = 2000000 -- microseconds after its end, in which a lease is given back
local OPEN = 64 -- leases of a log: of more, all are forgotten, and leave with their window
local KNOWN = 20000000 -- microseconds for which a lease or a note is known: twice the longest lease
local FORGOTTEN = 'forgotten' -- says in a hash of leases that there were more

local EXACT_KIND, EXACT_HEAD, ENTRY, SUMS = 101, 4, 19, 16777216 -- 'e'
local SLICED_KIND, SLICED_HEAD = 115, 26 -- 's'

local now = tonumber(ARGV[1])
if not now then
  local time = redis.pcall('TIME')
  if time.err then
    return redis.error_reply('NOTIME ' .. time.err)
  end
  now = time[1] * 1000000 + time[2]
end

-- delete needs no right of its own: a lifetime that is over deletes at once.
local function delete(name)
  redis.call('PEXPIRE', name, 0)
end

-- lifetime in milliseconds, from now on. It has a second to spare: it is counted
-- from a clock that Redis reads before the script runs.
local function lifetime(micros)
  return math.ceil(micros / 1000) + 1000
end

-- lives is the lifetime of a log whose last unit stands at a time. It covers the
-- times that are not renewed.
local function lives(key, time)
  local renewed = key.window / RENEW
  return lifetime((math.floor(time / renewed) + 1) * renewed + key.window - now)
end

-- renew lets a log live on, when its last unit stands at another time than before.
local function renew(key, before, time)
  local renewed = key.window / RENEW
  if key.time > now or math.floor(before / renewed) < math.floor(time / renewed) then
    redis.call('PEXPIRE', key.name, lives(key, time))
  end
end

-- read7, read4 and read3 are the number in so many bytes from a place on, and
-- write7, write4 and write3 those bytes.
local function read7(log, at)
  local a, b, c, d, e, f, g = string.byte(log, at, at + 6)
  return (((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f) * 256 + g
end

local function read4(log, at)
  local a, b, c, d = string.byte(log, at, at + 3)
  return ((a * 256 + b) * 256 + c) * 256 + d
end

local function read3(log, at)
  local a, b, c = string.byte(log, at, at + 2)
  return (a * 256 + b) * 256 + c
end

local function write3(n)
  local c = n % 256
  n = (n - c) / 256
  local b = n % 256
  return string.char((n - b) / 256, b, c)
end

local function write4(n)
  local d = n % 256
  n = (n - d) / 256
  local c = n % 256
  n = (n - c) / 256
  local b = n % 256
  return string.char((n - b) / 256, b, c, d)
end

local function write7(n)
  local low = n % 16777216
  n = (n - low) / 16777216
  local d = n % 256
  n = (n - d) / 256
  local c = n % 256
  n = (n - c) / 256
  local b, g = n % 256, low % 256
  low = (low - g) / 256
  local f = low % 256
  return string.char((n - b) / 256, b, c, d, (low - f) / 256, f, g)
end

local now7 = write7(now)

local exact = {}

-- read counts the units within the window that ends at the key's own time.
-- That time never runs backwards, also when the server's does. It is the
-- key's, not the request's: another key's time would free this one's early.
function exact.read(key, log)
  key.log, key.time, key.newest, key.oldest = log, now, 0, nil
  key.count, key.first, key.base, key.sum = 0, 0, 0, 0
  if not log then
    return
  end
  -- where the first entry within the window begins, and the newest
  local first, last = EXACT_HEAD + 1, #log - ENTRY + 1
  key.base, key.sum = read3(log, 2), read3(log, last + 7)
  key.newest = read7(log, last)
  key.time = math.max(now, key.newest)
  local cut = key.time - key.window
  if key.newest <= cut then
    first, key.base = last + ENTRY, key.sum
  else
    key.oldest = read7(log, first)
    while key.oldest <= cut do
      key.base = read3(log, first + 7)
      first = first + ENTRY
      key.oldest = read7(log, first)
    end
  end
  key.first, key.count = first, (key.sum - key.base) % SUMS
end

local function entry(time, total, id)
  return (time == now and now7 or write7(time)) .. write3(total % SUMS) .. id
end

-- add records a take.
function exact.add(key)
  local added = entry(key.time, key.sum + key.cost, key.id)
  if not key.log or key.first > EXACT_HEAD + STALE * ENTRY then
    redis.call('SET', key.name, 'e' .. write3(key.base) .. string.sub(key.log or '', key.first) .. added, 'PX', lives(key, key.time))
  else
    redis.call('APPEND', key.name, added)
    renew(key, key.newest, key.time)
  end
  key.count = key.count + key.cost
  key.oldest = key.oldest or key.time
end

-- entries lists what is within the window: time, units and id.
local function entries(key)
  local list, total = {}, key.base
  for at = key.first, key.log and #key.log or -1, ENTRY do
    local sum = read3(key.log, at + 7)
    list[#list + 1] = {time = read7(key.log, at), units = (sum - total) % SUMS, id = string.sub(key.log, at + 10, at + 18)}
    total = sum
  end
  return list
end

-- rewrite makes the log what a list says.
local function rewrite(key, list)
  table.sort(list, function(a, b) return a.time < b.time end)
  local parts, total = {'e', write3(0)}, 0
  for _, one in ipairs(list) do
    total = total + one.units
    parts[#parts + 1] = entry(one.time, total, one.id)
  end
  local log = total > 0 and table.concat(parts) or nil
  if log then
    redis.call('SET', key.name, log, 'PX', lives(key, list[#list].time))
  else
    delete(key.name)
  end
  exact.read(key, log)
end

-- note adds units that were taken a while ago: the newest first, if there is no
-- room for all.
function exact.note(key, uses)
  local list, room = entries(key), MOST - key.count
  for i = #uses, 1, -1 do
    local at, units = key.time - uses[i].within, math.min(uses[i].takes, room)
    if at > key.time - key.window and units > 0 then
      list[#list + 1] = {time = at, units = units, id = key.id}
      room = room - units
    end
  end
  rewrite(key, list)
end

-- remove takes back what a take took.
function exact.remove(key)
  local list = entries(key)
  for i, one in ipairs(list) do
    if one.id == key.id then
      table.remove(list, i)
      return rewrite(key, list)
    end
  end
end

-- leaves is the time until the unit at a rank within the window leaves it.
function exact.leaves(key, rank)
  local at = key.first
  if rank == 0 then
    return key.oldest + key.window - now
  end
  while (read3(key.log, at + 7) - key.base) % SUMS <= rank do
    at = at + ENTRY
  end
  return read7(key.log, at) + key.window - now
end

local sliced = {}

local function weight(key, slice)
  local changed = key.changed[slice]
  if changed or slice > key.written then
    return changed or 0
  end
  return read4(key.log, SLICED_HEAD + slice % RING * 4 + 1)
end

-- write has the weights of some slices, one after the other, in the ring.
local function write(key, from, to)
  local weights, zeros = '', 0
  for slice = from, to do
    local changed = key.changed[slice]
    if changed then
      weights, zeros = weights .. string.rep('\0', zeros) .. write4(changed), 0
    else
      zeros = zeros + 4
    end
  end
  redis.call('SETRANGE', key.name, SLICED_HEAD + from % RING * 4, weights .. string.rep('\0', zeros))
end

-- save writes what has changed.
local function save(key)
  local head = 's' .. write4(key.count) .. write7(key.first or 0) .. (key.time == now and now7 or write7(key.time)) .. write7(key.last)
  local written = key.written
  if not key.log or key.last - written >= RING then
    redis.call('SET', key.name, head .. string.rep('\0', RING * 4), 'PX', lives(key, key.last * key.slice))
    written = key.last
  else
    redis.call('SETRANGE', key.name, 0, head)
    renew(key, written * key.slice, key.last * key.slice)
  end
  for slice in pairs(key.changed) do
    if slice <= written and slice > key.last - RING then
      write(key, slice, slice)
    end
  end
  if key.last > written then
    local lap = key.last - key.last % RING
    if written + 1 < lap then
      write(key, written + 1, lap - 1)
    end
    write(key, math.max(written + 1, lap), key.last)
  end
end

-- slice_of is the number of the slice in which a time lies; its end is the
-- number times the length.
local function slice_of(key, time)
  return math.ceil(time / key.slice)
end

function sliced.read(key, log)
  key.slice = math.ceil(key.window / SLICES)
  key.log, key.changed, key.time, key.count = log, {}, now, 0
  key.first, key.last, key.written = nil, 0, 0
  if not log then
    return
  end
  key.count, key.last = read4(log, 2), read7(log, 20)
  key.written, key.time = key.last, math.max(now, read7(log, 13))
  local first, cut = read7(log, 6), math.floor((key.time - key.window) / key.slice)
  while key.count > 0 and first <= cut do
    key.count = key.count - weight(key, first)
    first = first + 1
  end
  while key.count > 0 and weight(key, first) == 0 do
    first = first + 1
  end
  key.first = key.count > 0 and first or nil
end

-- put has units leave with a slice.
local function put(key, slice, units)
  key.changed[slice] = weight(key, slice) + units
  key.count = key.count + units
  key.first = math.min(key.first or slice, slice)
  key.last = math.max(key.last, slice)
end

-- move has units leave with another slice than they would; with none: now.
local function move(key, units, from, to)
  if not key.first or from < key.first then
    return -- they have left
  end
  local held = weight(key, from)
  units = math.min(units, held)
  key.changed[from] = held - units
  key.count = key.count - units
  if to and to * key.slice > key.time - key.window then
    put(key, to, units)
  end
  while key.count > 0 and weight(key, key.first) == 0 do
    key.first = key.first + 1
  end
  if key.count == 0 then
    key.first = nil
  end
end

-- know keeps when the command of a key was granted, when its lease ends, the takes
-- of that and their cost.
local function know(key, most, length, takes)
  if redis.call('HLEN', key.leases) > most then
    delete(key.leases)
    redis.call('HSET', key.leases, FORGOTTEN, '')
  end
  redis.call('HSET', key.leases, key.id, write7(key.time) .. write7(key.time + length) .. write4(takes) .. write4(key.cost))
  redis.call('PEXPIRE', key.leases, lifetime(KNOWN))
end

-- add records a take and those of its lease. They can be taken back if they are
-- leased, or the caller says so.
function sliced.add(key, takes, length, gives)
  put(key, slice_of(key, key.time), key.cost)
  if takes > 0 then
    put(key, slice_of(key, key.time + length), takes * key.cost)
  end
  save(key)
  if takes > 0 or gives then
    know(key, OPEN, length, takes)
  end
end

-- granted is when a take with a lease's length was admitted, and the takes of
-- its lease; nil when that is not known.
local function granted(key)
  local found = redis.call('HGET', key.leases, key.id)
  if found then
    return read7(found, 1), read4(found, 15)
  end
end

function sliced.remove(key)
  local time = granted(key)
  if time and key.first then
    redis.call('HDEL', key.leases, key.id)
    move(key, key.cost, slice_of(key, time), nil)
    save(key)
  end
end

function sliced.note(key, uses)
  for _, use in ipairs(uses) do
    local slice = slice_of(key, key.time - use.within)
    if slice * key.slice > key.time - key.window then
      put(key, slice, use.takes)
    end
  end
  if key.first then
    save(key)
  end
end

function sliced.leaves(key, rank)
  local slice, units = key.first, 0
  if rank > 0 then
    units = weight(key, slice)
    while units <= rank do
      slice = slice + 1
      units = units + weight(key, slice)
    end
  end
  return slice * key.slice + key.window - now
end

-- open reads a log. One that is sliced remains so while it lives; an exact one
-- becomes so when the limit has been raised.
local function open(key)
  local log = redis.call('GET', key.name) or nil
  local kind = log and string.byte(log)
  if kind == SLICED_KIND and #log == SLICED_HEAD + RING * 4 or not log and key.limit > EXACT then
    key.kind = sliced
    sliced.read(key, log)
    return
  end
  if log and (kind ~= EXACT_KIND or (#log - EXACT_HEAD) % ENTRY ~= 0) then
    error('WRONGTYPE a key is no log of takes')
  end
  key.kind = exact
  exact.read(key, log)
  if key.limit > EXACT then
    local time, list = key.time, entries(key)
    key.kind = sliced
    sliced.read(key, nil)
    key.time = time
    for _, one in ipairs(list) do
      put(key, slice_of(key, one.time), one.units)
    end
  end
end

-- settle has the units of a lease leave with the slices in which they were
-- used, and those that were not at once.
local function settle(key, length, uses)
  open(key)
  local time, left = granted(key)
  if not time or key.kind ~= sliced then
    return
  end
  redis.call('HDEL', key.leases, key.id)
  if not key.first then
    return
  end
  local from = slice_of(key, time + length)
  for _, use in ipairs(uses) do
    local used = math.min(use.takes, left)
    left = left - used
    move(key, used * key.cost, from, slice_of(key, time + math.min(use.within, length)))
  end
  move(key, left * key.cost, from, nil)
  save(key)
end

local reply, replied = {now}, 1

-- leased says how many takes there may be in a lease: none near a limit, nor
-- where an exact log must hold them.
local function leased(keys, wanted, length)
  for _, key in ipairs(keys) do
    if key.kind == exact or key.limit <= EXACT or key.window < 5 * length then
      return 0
    end
    wanted = math.min(wanted, math.floor((key.limit - key.count - key.cost) / key.cost / SHARE))
  end
  return math.max(0, wanted)
end

-- unsettled is 1 if leases may be given back that some of the logs hold, else 0.
local function unsettled(keys)
  for _, key in ipairs(keys) do
    if key.kind == sliced and key.last * key.slice + SETTLED > key.time then
      return 1
    end
  end
  return 0
end

-- known finds a take that comes again because its reply was lost: it was
-- admitted already. The exact log with the longest window tells, as it keeps
-- the id when the others have let it go, or the leases do; and if neither is
-- there the take counts again.
local function known(keys, length)
  local longest
  for _, key in ipairs(keys) do
    if key.kind == exact and (not longest or key.window > longest.window) then
      longest = key
    end
  end
  if longest then
    local at = longest.log and string.find(longest.log, longest.id, EXACT_HEAD, true)
    return at and read7(longest.log, at - 10), 0
  end
  if length > 0 then
    return granted(keys[1])
  end
end

-- decide answers the command of some keys.
local function decide(verb, keys, wanted, length)
  local fits = true
  for _, key in ipairs(keys) do
    open(key)
    if verb == 'give' then
      key.kind.remove(key)
    end
    fits = fits and key.count + key.cost <= key.limit
  end

  local before, takes
  if verb == 'take' then
    before, takes = known(keys, length)
    if fits and not before then
      takes = wanted > 0 and leased(keys, wanted, length) or 0
      for _, key in ipairs(keys) do
        key.kind.add(key, takes, length, length > 0 and wanted == 0)
      end
    end
  end

  local admitted = (fits or before) and 1 or 0
  if verb == 'take' and admitted == 0 then
    takes = unsettled(keys)
  end
  reply[replied + 1], reply[replied + 2] = admitted, takes or 0
  replied = replied + 2
  for _, key in ipairs(keys) do
    local reset, retry = 0, 0
    if key.count > 0 then
      reset = key.kind.leaves(key, math.max(0, key.count - key.limit))
    end
    if verb == 'take' and admitted == 1 then
      retry = (before or key.time) - now
    elseif key.cost > key.limit then
      retry = -1
    elseif key.count + key.cost > key.limit then
      retry = key.kind.leaves(key, key.count + key.cost - key.limit - 1)
    end
    reply[replied + 1], reply[replied + 2], reply[replied + 3] = math.max(0, key.limit - key.count), reset, retry
    replied = replied + 3
  end
end

-- note counts what was admitted without this server, once.
local function note(key, uses)
  if granted(key) then
    return
  end
  open(key)
  key.kind.note(key, uses)
  know(key, NOTES, 0, 0)
end

-- reset empties a log but for what open leases hold; where some are not known,
-- but for all from the slice of now on.
local function reset(key)
  open(key)
  local held, from = {}, nil
  if key.kind == sliced and key.first then
    local found = redis.call('HGETALL', key.leases)
    for i = 1, #found, 2 do
      local lease = found[i + 1]
      if found[i] == FORGOTTEN then
        from = slice_of(key, key.time)
      elseif read4(lease, 15) > 0 then
        held[#held + 1] = {slice = slice_of(key, read7(lease, 8)), units = read4(lease, 15) * read4(lease, 19)}
      end
    end
  end
  if not from and #held == 0 then
    delete(key.name)
    return
  end
  local last = key.last
  for slice = key.first, last do
    if not from or slice < from then
      key.count = key.count - weight(key, slice)
      key.changed[slice] = 0
    end
  end
  key.first = from
  for _, lease in ipairs(held) do
    if (not from or lease.slice < from) and lease.slice * key.slice > key.time - key.window then
      put(key, lease.slice, lease.units)
    end
  end
  while key.count > 0 and weight(key, key.first) == 0 do
    key.first = key.first + 1
  end
  if key.count == 0 then
    delete(key.name)
  else
    save(key)
  end
end

-- numbers reads a list of them. Most commands of a batch have the same.
local texts = {}
local function numbers(text)
  local list = texts[text]
  if not list then
    list = cjson.decode(text)
    texts[text] = list
  end
  return list
end

local names, tables = 0, {}

-- keys_of lists the logs of a command from a place in its numbers on. The tables
-- are those of the command before.
local function keys_of(id, list, from, length)
  local keys = {}
  for at = from, #list, 3 do
    local n = #keys + 1
    local key = tables[n] or {}
    tables[n], keys[n] = key, key
    key.id, key.limit, key.window, key.cost = id, list[at], list[at + 1], list[at + 2]
    names = names + 1
    key.name, key.leases = KEYS[names], nil
    if length > 0 then
      names = names + 1
      key.leases = KEYS[names]
    end
  end
  return keys
end

for at = 2, #ARGV, 3 do
  local verb, id, list = ARGV[at], ARGV[at + 1], numbers(ARGV[at + 2])
  local many, length, from = list[1], list[2], 3
  if verb == 'settle' or verb == 'note' then
    local uses = {}
    for i = 1, many do
      uses[i] = {takes = list[from], within = list[from + 1]}
      from = from + 2
    end
    for _, key in ipairs(keys_of(id, list, from, length)) do
      if verb == 'note' then
        note(key, uses)
      else
        settle(key, length, uses)
      end
    end
  elseif verb == 'reset' then
    for _, key in ipairs(keys_of(id, list, from, length)) do
      reset(key)
    end
  else
    decide(verb, keys_of(id, list, from, length), many, length)
  end
end
return reply
