-- Two kinds of log, both with the times at which units leave a window that
-- ends now, by this server's clock. All KEYS lie in one hash slot, and each call
-- decides a batch of commands one after the other: each sees what those before
-- it have taken.
--
-- Both are strings: what a take costs is the number of Redis's commands. Numbers
-- in them are bytes, the most significant first.
--
-- The exact log is a head ('e', and the sum before its first entry, 3 bytes) and an
-- entry for each take: the microsecond of its admission (7), the units taken
-- until then, its own included (3, so modulo 2^24), and its id (9).
--
-- The sliced log, of limits above EXACT, counts units in slices of the window. A
-- unit stands in the slice that ends after its use, and leaves with that end. It
-- is a head ('w', and a slice to count from (7)), an entry for each slice with units
-- (slices since that of the head (2), units (4)), room for more, and a tail: for how
-- many (1), how many entries have left (2), the units of the others (4), and the
-- newest time (7). So one write from an entry to the end adds a take.
--
-- ARGV: the caller's time in microseconds, or '' for this server's; and the
-- commands, in bytes as above: a verb (1), a random id (9), two numbers (4 each), how
-- many logs (2), for some verbs pairs (4 and 7), and for each log limit (4), window in
-- milliseconds (5) and cost (4).
--   t take    the numbers are how many more such takes are wanted for a lease, and
--             its length in microseconds. A length alone: 'give' may follow.
--   p peek    0 0
--   g give    0 and the take's length: takes back what the take of that id took
--   s settle  the numbers are the pairs that follow at once, and the lease's
--             length. Each pair: takes used, and how many microseconds after the
--             grant at the latest. What was not used is taken back.
--   n note    the numbers are the pairs that follow at once, and how long the id is
--             remembered. Each pair: units that were admitted while this server did
--             not decide, and how many microseconds ago. They count whatever the
--             limit is.
--   r reset   0 and some length: takes out what was taken until now, but what open
--             leases hold.
-- KEYS: each command's logs; where it has a length, each followed by a hash of
-- the leases of that log, or of what was noted in it.
--
-- Replies with integers: the time; then for each command but settle, note and
-- reset 1 when admitted (of peek and give: when a take would be), else 0; the takes
-- of the lease, or of a take that is refused 1 if leases may yet be given back to
-- one of its logs; then for each of its logs the units remaining, the microseconds
-- until more remain, and those until the limit alone admits the cost (-1: never);
-- or, of a take that was admitted, how long after the time the log has it.
--
-- Redis makes the functions of a script anew with each call, which may cost more
-- than a take. So what few takes need is within 'seldom', which makes it when it is
-- called for.
-- What is called a number here is that number in the script that Redis has: each
-- variable that a function shares costs when it is made.
local TAKE = 116 -- 't'
local GIVE = 103 -- 'g'
local SETTLE = 115 -- 's'
local NOTE = 110 -- 'n'
local RESET = 114 -- 'r'
local EXACT = 128 -- units
local STALE = 32 -- entries of an exact log that have left and are not cut off yet
local SETTLED = 3000000 -- microseconds after its end, in which a lease is given back
local EXACT_HEAD = 4
local ENTRY = 19
local SUMS = 16777216
local SLICED_HEAD = 8
local WEIGHT = 6
local TAIL = 14
local SPAN = 65535
local ROOM = 16 -- entries that a sliced log is made longer by

local now = tonumber(ARGV[1])
if not now then
  local time = redis.pcall('TIME')
  if time.err then
    return redis.error_reply('NOTIME ' .. time.err)
  end
  now = time[1] * 1000000 + time[2]
end

local call, byte, char, sub, rep = redis.call, string.byte, string.char, string.sub, string.rep
local ceil, floor = math.ceil, math.floor

-- lives is the lifetime in milliseconds, from now on, of a log whose last unit stands
-- at a time. It is renewed once in a 16th of its window, which it covers, and has a
-- second to spare: it is counted from a clock that Redis reads before the script runs.
local function lives(key, time)
  local part = key.window / 16
  return ceil(((floor(time / part) + 1) * part + key.window - now) / 1000) + 1000
end

-- renew lets a log live on, whose last unit stands at another time than before.
local function renew(key, time)
  local part = key.window / 16
  if key.time > now or floor(key.last / part) < floor(time / part) then
    call('PEXPIRE', key.name, lives(key, time))
  end
end

local function read7(text, at)
  local a, b, c, d, e, f, g = byte(text, at, at + 6)
  return (((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f) * 256 + g
end

local function write7(n)
  local low = n % 16777216
  n = (n - low) / 16777216
  local d, g = n % 256, low % 256
  n, low = (n - d) / 256, (low - g) / 256
  local c, f = n % 256, low % 256
  n = (n - c) / 256
  local b = n % 256
  return char((n - b) / 256, b, c, d, (low - f) / 256, f, g)
end

local function write3(n)
  local c = n % 256
  n = (n - c) / 256
  local b = n % 256
  return char((n - b) / 256, b, c)
end

-- write6 writes a number of 2 bytes and one of 4.
local function write6(m, n)
  local b, f = m % 256, n % 256
  n = (n - f) / 256
  local e = n % 256
  n = (n - e) / 256
  local d = n % 256
  return char((m - b) / 256, b, (n - d) / 256, d, e, f)
end

-- open reads a log: the units within the window that ends at the key's own time,
-- the place of the first of them, and the times of the first and of the last.
-- The key's time never runs backwards, also when the server's does. It is not the
-- request's: another key's time would free this one's early. A log that is sliced
-- remains so while it lives.
local function open(key, log)
  key.log, key.time, key.count, key.first, key.last = log, now, 0, nil, 0
  local kind, a, b, c, d, e, f, g, h, i, j, k, l, m = byte(log or '', 1, 8)
  if not log and key.limit <= EXACT then
    key.at, key.base, key.sum = EXACT_HEAD + 1, 0, 0
  elseif not log then
    key.slice = ceil(key.window / 200)
    key.at, key.stop, key.room, key.base = SLICED_HEAD + 1, SLICED_HEAD + 1, 0, ceil(now / key.slice)
  elseif kind == 101 and #log > EXACT_HEAD and (#log - EXACT_HEAD) % ENTRY == 0 then -- 'e'
    local last, at, base = #log - ENTRY + 1, EXACT_HEAD + 1, (a * 256 + b) * 256 + c
    a, b, c, d, e, f, g, h, i, j = byte(log, last, last + 9)
    key.last = (((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f) * 256 + g
    key.sum = (h * 256 + i) * 256 + j
    if key.last > now then
      key.time = key.last
    end
    local cut, first = key.time - key.window, nil
    if key.last <= cut then
      at, base = last + ENTRY, key.sum
    else
      first = read7(log, at)
      while first <= cut do
        h, i, j = byte(log, at + 7, at + 9)
        base, at = (h * 256 + i) * 256 + j, at + ENTRY
        first = read7(log, at)
      end
    end
    key.at, key.base, key.count, key.first = at, base, (key.sum - base) % SUMS, first
  elseif kind == 119 and #log >= SLICED_HEAD + TAIL and (#log - SLICED_HEAD - TAIL) % WEIGHT == 0 then -- 'w'
    local slice, stop = ceil(key.window / 200), #log - TAIL + 1
    local base = (((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f) * 256 + g
    key.room, a, b, c, d, e, f, g, h, i, j, k, l, m = byte(log, stop, stop + TAIL - 1)
    stop = stop - key.room * WEIGHT
    local at, count = SLICED_HEAD + 1 + (a * 256 + b) * WEIGHT, ((c * 256 + d) * 256 + e) * 256 + f
    local newest = (((((g * 256 + h) * 256 + i) * 256 + j) * 256 + k) * 256 + l) * 256 + m
    if newest > now then
      key.time = newest
    end
    local cut = floor((key.time - key.window) / slice) - base
    while at < stop do
      a, b, c, d, e, f = byte(log, at, at + 5)
      if a * 256 + b > cut then
        key.first = (base + a * 256 + b) * slice
        break
      end
      count, at = count - ((c * 256 + d) * 256 + e) * 256 - f, at + WEIGHT
    end
    if stop > SLICED_HEAD + 1 then
      a, b = byte(log, stop - WEIGHT, stop - WEIGHT + 1)
      key.last = (base + a * 256 + b) * slice
    end
    key.slice, key.base, key.at, key.stop, key.count = slice, base, at, stop, count
  else
    error('WRONGTYPE a key is no log of takes')
  end
end

-- add records a take in an exact log.
local function add(key)
  local added = write7(key.time) .. write3((key.sum + key.cost) % SUMS) .. key.id
  if not key.log or key.at > EXACT_HEAD + STALE * ENTRY then
    call('SET', key.name, 'e' .. write3(key.base) .. sub(key.log or '', key.at) .. added, 'PX', lives(key, key.time))
  else
    call('APPEND', key.name, added)
    renew(key, key.time)
  end
  key.count, key.first = key.count + key.cost, key.first or key.time
end

-- append records a take at the end of a sliced log, and says whether that can be.
local function append(key)
  local slice, log, place = ceil(key.time / key.slice), key.log, key.stop
  local time, units, room = slice * key.slice, key.cost, key.room - 1
  if key.last > time or slice - key.base > SPAN or key.raised then
    return false
  end
  if key.last == time then
    local c, d, e, f = byte(log, place - 4, place - 1)
    units, place, room = units + ((c * 256 + d) * 256 + e) * 256 + f, place - WEIGHT, key.room
  end
  key.count, key.first = key.count + key.cost, key.first or time
  local added, ending = write6(slice - key.base, units), write7(key.time)
  if room >= 0 then
    ending = write6((key.at - SLICED_HEAD - 1) / WEIGHT, key.count) .. ending
    call('SETRANGE', key.name, place - 1, added .. rep('\0', room * WEIGHT) .. char(room) .. ending)
    renew(key, time)
  else -- what has left is cut off
    ending = rep('\0', ROOM * WEIGHT) .. char(ROOM) .. write6(0, key.count) .. ending
    call('SET', key.name, 'w' .. write7(key.base) .. sub(log or '', key.at, place - 1) .. added .. ending, 'PX', lives(key, time))
  end
  return true
end

-- leaves is the time until the unit at a rank within the window leaves it.
local function leaves(key, rank)
  local log, at, time = key.log, key.at, key.first
  if rank > 0 and key.slice then
    local a, b, c, d, e, f
    repeat
      a, b, c, d, e, f = byte(log, at, at + 5)
      rank, at = rank - ((c * 256 + d) * 256 + e) * 256 - f, at + WEIGHT
    until rank < 0
    time = (key.base + a * 256 + b) * key.slice
  elseif rank > 0 then
    local a, b, c
    repeat
      a, b, c = byte(log, at + 7, at + 9)
      at = at + ENTRY
    until ((a * 256 + b) * 256 + c - key.base) % SUMS > rank
    time = read7(log, at - ENTRY)
  end
  return time + key.window - now
end

local function seldom()
  local SHARE = 8 -- a lease is at most such a part of what remains
  local MOST = 512 -- units of an exact log, where they are noted
  local NOTES = 1024 -- ids of notes of a log: of more, all are forgotten
  local OPEN = 64 -- leases of a log: of more, all are forgotten, and leave with their window
  local KNOWN = 21000 -- milliseconds for which a lease or a note is known: twice the longest lease, and one
  local FORGOTTEN = 'forgotten' -- says in a hash of leases that there were more
  local others = {}

  -- delete needs no right of its own: a lifetime that is over deletes at once.
  local function delete(name)
    call('PEXPIRE', name, 0)
  end

  local function read4(text, at)
    local a, b, c, d = byte(text, at, at + 3)
    return ((a * 256 + b) * 256 + c) * 256 + d
  end

  -- pairs lists so many of the commands' text from a place on.
  function others.pairs(text, at, many)
    local list = {}
    for n = 1, many do
      list[n] = {takes = read4(text, at), within = read7(text, at + 4)}
      at = at + 11
    end
    return list
  end

  -- entries lists what is within the window of an exact log: time, units and id.
  local function entries(key)
    local list, total = {}, key.base
    for at = key.at, key.log and #key.log or -1, ENTRY do
      local a, b, c = byte(key.log, at + 7, at + 9)
      local sum = (a * 256 + b) * 256 + c
      list[#list + 1] = {time = read7(key.log, at), units = (sum - total) % SUMS, id = sub(key.log, at + 10, at + 18)}
      total = sum
    end
    return list
  end

  -- rewrite makes an exact log what a list says.
  local function rewrite(key, list)
    table.sort(list, function(a, b) return a.time < b.time end)
    local parts, total = {'e', write3(0)}, 0
    for _, one in ipairs(list) do
      total = total + one.units
      parts[#parts + 1] = write7(one.time) .. write3(total % SUMS) .. one.id
    end
    if total > 0 then
      call('SET', key.name, table.concat(parts), 'PX', lives(key, list[#list].time))
    else
      delete(key.name)
    end
  end

  -- slice_of is the number of the slice in which a time lies; its end is the
  -- number times the length.
  local function slice_of(key, time)
    return ceil(time / key.slice)
  end

  -- weight is the units of a slice. What stands there and behind it is taken out of
  -- the log, to be changed.
  local function weight(key, slice)
    key.changed = key.changed or {}
    while key.stop > key.at do
      local a, b = byte(key.log, key.stop - WEIGHT, key.stop)
      if key.base + a * 256 + b < slice then
        break
      end
      key.changed[key.base + a * 256 + b] = read4(key.log, key.stop - 4)
      key.stop, key.room = key.stop - WEIGHT, key.room + 1
    end
    return key.changed[slice] or 0
  end

  -- save writes what has changed: from there to the end of the log, or all of it,
  -- without what has left, if there is no room or its slices count from another.
  local function save(key)
    if not key.changed then
      return
    end
    for slice in pairs(key.changed) do
      if slice - key.base > SPAN then
        weight(key, 0)
        break
      end
    end
    local slices, parts, base = {}, {}, key.base
    for slice, units in pairs(key.changed) do
      if units > 0 then
        slices[#slices + 1] = slice
      end
    end
    table.sort(slices)
    local first, last = slices[1] or base, slices[#slices] or base
    local room, gone = key.room - #slices, (key.at - SLICED_HEAD - 1) / WEIGHT
    local whole = not key.log or key.raised or room < 0 or room > 255 or first < base or last - base > SPAN
    if whole then
      room, gone = ROOM, 0
      if key.stop == key.at then
        base = first
      end
      parts[1] = 'w' .. write7(base) .. sub(key.log or '', key.at, key.stop - 1)
    end
    for _, slice in ipairs(slices) do
      parts[#parts + 1] = write6(slice - base, key.changed[slice])
    end
    parts[#parts + 1] = rep('\0', room * WEIGHT) .. char(room) .. write6(gone, key.count) .. write7(key.time)
    local time = math.max(slices[1] and last * key.slice or key.last, key.time) -- others may stand at the last one
    if whole then
      call('SET', key.name, table.concat(parts), 'PX', lives(key, time))
    else
      call('SETRANGE', key.name, key.stop - 1, table.concat(parts))
      renew(key, time)
    end
  end

  -- put has units leave with a slice.
  local function put(key, slice, units)
    local held = weight(key, slice)
    key.changed[slice] = held + units
    key.count = key.count + units
    key.first = math.min(key.first or slice * key.slice, slice * key.slice)
  end

  -- move has units leave with another slice than they would; with none: now.
  local function move(key, units, from, to)
    if not key.first or from * key.slice < key.first then
      return -- they have left
    end
    local held = weight(key, from)
    units = math.min(units, held)
    key.changed[from] = held - units
    key.count = key.count - units
    if to and to * key.slice > key.time - key.window then
      put(key, to, units)
    end
  end

  -- know keeps when the command of a key was granted, when its lease ends, the takes
  -- of that and their cost.
  local function know(key, most, length, takes)
    if call('HLEN', key.leases) > most then
      delete(key.leases)
      call('HSET', key.leases, FORGOTTEN, '')
    end
    call('HSET', key.leases, key.id, write7(key.time) .. write7(key.time + length) .. sub(write6(0, takes), 3) .. sub(write6(0, key.cost), 3))
    call('PEXPIRE', key.leases, KNOWN)
  end

  -- granted is when a take with a lease's length was admitted, and the takes of
  -- its lease; nil when that is not known.
  function others.granted(key)
    local found = call('HGET', key.leases, key.id)
    if found then
      return read7(found, 1), read4(found, 15)
    end
  end

  -- raise makes an exact log whose limit has been raised a sliced one, to be written
  -- with the next take.
  function others.raise(key)
    local slice, parts, last, units = ceil(key.window / 200), {}, nil, 0
    local base = ceil((key.first or key.time) / slice)
    for _, one in ipairs(entries(key)) do
      local at = ceil(one.time / slice)
      if last and at > last then
        parts[#parts + 1] = write6(last - base, units)
        units = 0
      end
      last, units = at, units + one.units
    end
    if last then
      parts[#parts + 1] = write6(last - base, units)
    end
    open(key, 'w' .. write7(base) .. table.concat(parts) .. char(0) .. write6(0, key.count) .. write7(key.time))
    key.raised = true
  end

  -- leased says how many takes there may be in a lease: none near a limit, nor
  -- where an exact log must hold them.
  function others.leased(keys, wanted, length)
    for _, key in ipairs(keys) do
      if not key.slice or key.limit <= EXACT or key.window < 5 * length then
        return 0
      end
      wanted = math.min(wanted, floor((key.limit - key.count - key.cost) / key.cost / SHARE))
    end
    return math.max(0, wanted)
  end

  -- take records a take in a sliced log, and those of its lease. They can be taken
  -- back if they are leased, or the caller says so.
  function others.take(key, takes, length, gives)
    put(key, slice_of(key, key.time), key.cost)
    if takes > 0 then
      put(key, slice_of(key, key.time + length), takes * key.cost)
    end
    save(key)
    if takes > 0 or gives then
      know(key, OPEN, length, takes)
    end
  end

  -- give takes back what a take took.
  function others.give(key)
    local list = key.slice and {} or entries(key)
    for i, one in ipairs(list) do
      if one.id == key.id then
        table.remove(list, i)
        rewrite(key, list)
      end
    end
    local time = key.slice and others.granted(key)
    if time and key.first then
      call('HDEL', key.leases, key.id)
      move(key, key.cost, slice_of(key, time), nil)
      save(key)
    end
  end

  -- settle has the units of a lease leave with the slices in which they were
  -- used, and those that were not at once.
  others[SETTLE] = function(key, length, uses)
    local time, left = others.granted(key)
    if not time or not key.slice then
      return
    end
    call('HDEL', key.leases, key.id)
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

  -- note counts what was admitted without this server, once: in an exact log the
  -- newest first, if there is no room for all.
  others[NOTE] = function(key, _, uses)
    if others.granted(key) then
      return
    end
    local list, room = not key.slice and entries(key), MOST - key.count
    for i = #uses, 1, -1 do
      local time, units = key.time - uses[i].within, uses[i].takes
      if key.slice then
        if slice_of(key, time) * key.slice > key.time - key.window then
          put(key, slice_of(key, time), units)
        end
      elseif time > key.time - key.window and room > 0 then
        list[#list + 1] = {time = time, units = math.min(units, room), id = key.id}
        room = room - units
      end
    end
    if list then
      rewrite(key, list)
    else
      save(key)
    end
    know(key, NOTES, 0, 0)
  end

  -- reset empties a log but for what open leases hold; where some are not known,
  -- but for all from the slice of now on.
  others[RESET] = function(key)
    local held, from = {}, nil
    if key.slice and key.first then
      local found = call('HGETALL', key.leases)
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
    weight(key, 0)
    for slice, units in pairs(key.changed) do
      if not from or slice < from then
        key.changed[slice], key.count = 0, key.count - units
      end
    end
    for _, lease in ipairs(held) do
      if (not from or lease.slice < from) and lease.slice * key.slice > key.time - key.window then
        put(key, lease.slice, lease.units)
      end
    end
    if key.count > 0 then
      save(key)
    else
      delete(key.name)
    end
  end
  return others
end

local reply, names, others = {now}, 0, nil
local text, at = ARGV[2], 1
while at <= #text do
  local verb, id, many = byte(text, at), sub(text, at + 1, at + 9), nil
  local a, b, c, d, e, f, g, h, i, j, k, l, m = byte(text, at + 10, at + 19)
  local wanted, length, logs = ((a * 256 + b) * 256 + c) * 256 + d, ((e * 256 + f) * 256 + g) * 256 + h, i * 256 + j
  at = at + 20
  if verb == SETTLE or verb == NOTE then
    others = others or seldom()
    many, at = others.pairs(text, at, wanted), at + 11 * wanted
  end

  local keys, longest, fits = {}, nil, true
  for n = 1, logs do
    a, b, c, d, e, f, g, h, i, j, k, l, m = byte(text, at, at + 12)
    at, names = at + 13, names + 1
    local key = { -- 16 fields with those of a log: of more, Lua makes room for 32
      id = id, name = KEYS[names], limit = ((a * 256 + b) * 256 + c) * 256 + d,
      window = ((((e * 256 + f) * 256 + g) * 256 + h) * 256 + i) * 1000, cost = ((j * 256 + k) * 256 + l) * 256 + m,
      time = 0, count = 0, last = 0, at = 0, base = 0,
    }
    if length > 0 then
      names = names + 1
      key.leases = KEYS[names]
    end
    open(key, call('GET', key.name) or nil)
    if verb == GIVE then
      others = others or seldom()
      others.give(key)
      open(key, call('GET', key.name) or nil)
    end
    if key.limit > EXACT and not key.slice then
      others = others or seldom()
      others.raise(key)
    end
    if not key.slice and (not longest or key.window > longest.window) then
      longest = key
    end
    keys[n], fits = key, fits and key.count + key.cost <= key.limit
  end

  if many or verb == RESET then
    others = others or seldom()
    for _, key in ipairs(keys) do
      others[verb](key, length, many)
    end
  else
    local before, takes
    if verb == TAKE and longest then
      local found = longest.log and string.find(longest.log, id, EXACT_HEAD, true)
      before = found and read7(longest.log, found - 10)
    elseif verb == TAKE and length > 0 then
      others = others or seldom()
      before, takes = others.granted(keys[1])
    end
    if verb == TAKE and fits and not before then
      takes = wanted > 0 and not longest and others.leased(keys, wanted, length) or 0
      local gives = length > 0 and wanted == 0
      for n = 1, #keys do
        local key = keys[n]
        if not key.slice then
          add(key)
        elseif takes > 0 or gives or not append(key) then
          others = others or seldom()
          others.take(key, takes, length, gives)
        end
      end
    end

    local admitted, n = (fits or before) and 1 or 0, #reply
    if verb == TAKE and admitted == 0 then
      for _, key in ipairs(keys) do
        if key.slice and key.last + SETTLED > key.time then
          takes = 1
        end
      end
    end
    reply[n + 1], reply[n + 2] = admitted, takes or 0
    for k = 1, #keys do
      local key, reset, retry = keys[k], 0, 0
      local over = key.count - key.limit
      if key.count > 0 then
        reset = leaves(key, over > 0 and over or 0)
      end
      if verb == TAKE and admitted == 1 then
        retry = (before or key.time) - now
      elseif key.cost > key.limit then
        retry = -1
      elseif over + key.cost > 0 then
        retry = leaves(key, over + key.cost - 1)
      end
      reply[n + 3 * k], reply[n + 3 * k + 1], reply[n + 3 * k + 2] = over < 0 and -over or 0, reset, retry
    end
  end
end
return reply
