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
-- (slices since that of the head (2), units (4)), and a tail: a zero, how many entries
-- have left (2), the units of the others (4), and the newest time (7). So one write
-- from an entry to the end adds a take. (The zero was for how many more entries there
-- was room before the tail: such a log is read, and written anew.)
--
-- ARGV: the caller's time in microseconds, or '' for this server's; and the
-- commands, in bytes as above: a verb (1), a random id (9), two numbers (4 each), how
-- many logs (2), for some verbs pairs (4 and 7), and for each log limit (4), window in
-- milliseconds (5) and cost (4).
--   t take    the numbers are how many more such takes are wanted for a lease, and
--             its length in microseconds. A length alone: 'give' may follow.
--   l lease   the same, but nothing is taken beside the lease. For logs that can have one.
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
-- Replies with integers, 8 bytes each: the time; then for each command but settle, note
-- and reset 1 when admitted (of peek and give: when a take would be), else 0; the takes
-- of the lease, or of a take that is refused 1 if leases may yet be given back to
-- one of its logs; then for each of its logs the units remaining, the microseconds
-- until more remain, and those until the limit alone admits the cost (-1: never);
-- or, of a take that was admitted, how long after the time the log has it.
--
-- Redis makes the functions of a script anew with each call, and a place for each
-- variable that they share. So what each take needs is in no function, and what few
-- takes need is within 'seldom', which makes it when it is called for, and shares
-- nothing. It also reads each byte of each new string, for its hash: so there are few,
-- and short ones. What is called a number here is that number in the script that Redis has.
local TAKE = 116 -- 't'
local LEASE = 108 -- 'l'
local GIVE = 103 -- 'g'
local SETTLE = 115 -- 's'
local NOTE = 110 -- 'n'
local RESET = 114 -- 'r'
local EXACT = 128 -- units
local STALE = 32 -- entries of a log that have left and are not cut off yet
local SETTLED = 3000000 -- microseconds after its end, in which a lease is given back
local EXACT_HEAD = 4
local ENTRY = 19
local SUMS = 16777216
local SLICED_HEAD = 8
local WEIGHT = 6
local TAIL = 14
local SPAN = 65535

local now = tonumber(ARGV[1])
if not now then
  local time = redis.pcall('TIME')
  if time.err then
    return redis.error_reply('NOTIME ' .. time.err)
  end
  now = time[1] * 1000000 + time[2]
end

local struct = rawget(_G, 'struct')
if not struct or struct.size('l') < 8 then -- what is used of it, for servers that do not have it, or for 32 bits
  struct = {}
  function struct.pack(format, ...)
    local values, text = {...}, ''
    for kind, size in string.gmatch(format, '(%a)(%d*)') do
      local value, bytes = table.remove(values, 1), ''
      for _ = 1, kind == 'c' and 0 or tonumber(size) or 1 do
        bytes = string.char(value % 256) .. bytes
        value = math.floor(value / 256)
      end
      text = text .. (kind == 'c' and value or bytes)
    end
    return text
  end
  function struct.unpack(format, text, at)
    local values = {}
    at = at or 1
    for kind, size in string.gmatch(format, '(%a)(%d*)') do
      local value, stop = 0, at + (tonumber(size) or 1)
      for k = at, kind == 'c' and 0 or stop - 1 do
        value = value * 256 + string.byte(text, k)
      end
      if kind ~= 'x' then
        values[#values + 1] = kind == 'c' and string.sub(text, at, stop - 1) or value
      end
      at = stop
    end
    values[#values + 1] = at
    return unpack(values)
  end
end
local call, pack, unpack, byte, sub, ceil = redis.call, struct.pack, struct.unpack, string.byte, string.sub, math.ceil

-- write puts text into a log, whose last unit then stands at a time: from a place on,
-- or as all of it. A log's lifetime is renewed once in a 16th of its window, which it
-- covers, and has a second to spare: it is counted from a clock that Redis reads
-- before the script runs.
local function write(key, place, text, time)
  local part = key.window / 16
  local from = time - time % part
  local lives = from + part + key.window - now
  lives = (lives - lives % 1000) / 1000 + 1001
  if not place then
    redis.call('SET', key.name, text, 'PX', lives)
    return
  elseif place == #key.log + 1 then
    redis.call('APPEND', key.name, text)
  else
    redis.call('SETRANGE', key.name, place - 1, text)
  end
  if key.time > now or key.last < from then
    redis.call('PEXPIRE', key.name, lives)
  end
end

-- leaves is the time until the unit at a rank within the window leaves it.
local function leaves(key, rank)
  local log, at, time = key.log, key.at, key.first
  if rank > 0 and key.slice then
    local slice, units
    repeat
      slice, units, at = unpack('>I2I4', log, at)
      rank = rank - units
    until rank < 0
    time = (key.base + slice) * key.slice
  elseif rank > 0 then
    local sum
    repeat
      time, sum, at = unpack('>I7I3xxxxxxxxx', log, at)
    until (sum - key.base) % SUMS > rank
  end
  return time + key.window - now
end

local function seldom(now, write, pack, unpack)
  local call, sub, ceil, floor = redis.call, string.sub, math.ceil, math.floor
  local SHARE = 8 -- a lease is at most such a part of what remains, or the half if it is no longer than a slice
  local MOST = 512 -- units of an exact log, where they are noted
  local COUNTED = 4294967295 -- units of a sliced log, far above any limit
  local OPEN = 1024 -- leases of a log, or notes: of more, all are forgotten, and leave with their window
  local KNOWN = 21000 -- milliseconds for which a lease or a note is known: twice the longest lease, and one
  local FORGOTTEN = 'forgotten' -- says in a hash of leases that there were more
  local others = {}

  -- delete needs no right of its own: a lifetime that is over deletes at once.
  local function delete(name)
    call('PEXPIRE', name, 0)
  end

  -- pairs lists so many of the commands' text from a place on.
  function others.pairs(text, at, many)
    local list = {}
    for n = 1, many do
      local takes, within
      takes, within, at = unpack('>I4I7', text, at)
      list[n] = {takes = takes, within = within}
    end
    return list, at
  end

  -- entries lists what is within the window of an exact log: time, units and id.
  local function entries(key)
    local list, total = {}, key.base
    for at = key.at, key.log and #key.log or -1, ENTRY do
      local time, sum, id = unpack('>I7I3c9', key.log, at)
      list[#list + 1] = {time = time, units = (sum - total) % SUMS, id = id}
      total = sum
    end
    return list
  end

  -- rewrite makes an exact log what a list says.
  local function rewrite(key, list)
    table.sort(list, function(a, b) return a.time < b.time end)
    local parts, total = {pack('>c1I3', 'e', 0)}, 0
    for _, one in ipairs(list) do
      total = total + one.units
      parts[#parts + 1] = pack('>I7I3c9', one.time, total % SUMS, one.id)
    end
    if total > 0 then
      write(key, nil, table.concat(parts), list[#list].time)
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
      local last, units = unpack('>I2I4', key.log, key.stop - WEIGHT)
      if key.base + last < slice then
        break
      end
      key.changed[key.base + last] = units
      key.stop = key.stop - WEIGHT
    end
    return key.changed[slice] or 0
  end

  -- save writes what has changed: from there to the end of the log, or all of it,
  -- without what has left, if it becomes shorter or its slices count from another.
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
    local gone = (key.at - SLICED_HEAD - 1) / WEIGHT
    local whole = not key.log or key.raised or gone > STALE or first < base or last - base > SPAN
      or key.stop + #slices * WEIGHT + TAIL <= #key.log
    if whole then
      gone = 0
      if key.stop == key.at then
        base = first
      end
      parts[1] = pack('>c1I7', 'w', base) .. sub(key.log or '', key.at, key.stop - 1)
    end
    for _, slice in ipairs(slices) do
      parts[#parts + 1] = pack('>I2I4', slice - base, key.changed[slice])
    end
    parts[#parts + 1] = pack('>BI2I4I7', 0, gone, key.count, key.time)
    local time = math.max(slices[1] and last * key.slice or key.last, key.time) -- others may stand at the last one
    write(key, not whole and key.stop, table.concat(parts), time)
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
  local function know(key, length, takes)
    if call('HLEN', key.leases) > OPEN then
      delete(key.leases)
      call('HSET', key.leases, FORGOTTEN, '')
    end
    call('HSET', key.leases, key.id, pack('>I7I7I4I4', key.time, key.time + length, takes, key.cost))
    call('PEXPIRE', key.leases, KNOWN)
  end

  -- granted is when a take with a lease's length was admitted, and the takes of
  -- its lease; nil when that is not known.
  function others.granted(key)
    local found = call('HGET', key.leases, key.id)
    if found then
      return unpack('>I7xxxxxxxI4', found)
    end
  end

  -- raised is an exact log whose limit has been raised, as a sliced one.
  function others.raised(key)
    local slice, parts, last, units = ceil(key.window / 200), {}, nil, 0
    local base = ceil((key.first or key.time) / slice)
    for _, one in ipairs(entries(key)) do
      local at = ceil(one.time / slice)
      if last and at > last then
        parts[#parts + 1] = pack('>I2I4', last - base, units)
        units = 0
      end
      last, units = at, units + one.units
    end
    if last then
      parts[#parts + 1] = pack('>I2I4', last - base, units)
    end
    return pack('>c1I7', 'w', base) .. table.concat(parts) .. pack('>BI2I4I7', 0, 0, key.count, key.time)
  end

  -- leased says how many takes there may be in a lease, beside the first: none near a limit,
  -- unless it is as short as a slice, nor where an exact log must hold them.
  function others.leased(keys, first, wanted, length)
    local short = true
    for _, key in ipairs(keys) do
      if not key.slice or key.limit <= EXACT or key.window < 5 * length then
        return 0
      end
      short = short and length <= key.slice
    end
    for _, key in ipairs(keys) do
      local remain = floor((key.limit - key.count) / key.cost) - first
      wanted = math.min(wanted, short and ceil(remain / 2) or floor(remain / SHARE))
    end
    return math.max(0, wanted)
  end

  -- take records so many takes in a sliced log, and those of a lease. They can be taken
  -- back if they are leased, or the caller says so.
  function others.take(key, first, takes, length, gives)
    if first > 0 then
      put(key, slice_of(key, key.time), first * key.cost)
    end
    if takes > 0 then
      put(key, slice_of(key, key.time + length), takes * key.cost)
    end
    save(key)
    if takes > 0 or gives then
      know(key, length, takes)
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
    local list, room = not key.slice and entries(key), (key.slice and COUNTED or MOST) - key.count
    for i = #uses, 1, -1 do
      local time, units = key.time - uses[i].within, math.min(uses[i].takes, room)
      if units > 0 and key.slice and slice_of(key, time) * key.slice > key.time - key.window then
        put(key, slice_of(key, time), units)
        room = room - units
      elseif units > 0 and not key.slice and time > key.time - key.window then
        list[#list + 1] = {time = time, units = units, id = key.id}
        room = room - units
      end
    end
    if list then
      rewrite(key, list)
    else
      save(key)
    end
    know(key, 0, 0)
  end

  -- reset empties a log but for what open leases hold; where some are not known,
  -- but for all from the slice of now on.
  others[RESET] = function(key)
    local held, from = {}, nil
    if key.slice and key.first then
      local found = call('HGETALL', key.leases)
      for i = 1, #found, 2 do
        if found[i] == FORGOTTEN then
          from = slice_of(key, key.time)
        else
          local stop, takes, cost = unpack('>xxxxxxxI7I4I4', found[i + 1])
          if takes > 0 then
            held[#held + 1] = {slice = slice_of(key, stop), units = takes * cost}
          end
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

local replies, names, others = {}, 0, nil
local text, at = ARGV[2], 1
while at <= #text do
  local verb, id, wanted, length, logs, many
  verb, id, wanted, length, logs, at = unpack('>Bc9I4I4I2', text, at)
  if length > 0 then
    others = others or seldom(now, write, pack, unpack)
  end
  if verb == SETTLE or verb == NOTE then
    many, at = others.pairs(text, at, wanted)
  end

  local keys, longest, fits = {}, nil, true
  for n = 1, logs do
    local limit, window, cost, leases
    limit, window, cost, at = unpack('>I4I5I4', text, at)
    names, window = names + 1, window * 1000
    local name, key, raised, given = KEYS[names], nil, false, false
    if length > 0 then
      names = names + 1
      leases = KEYS[names]
    end
    local log = call('GET', name)
    -- Reads a log: the units within the window that ends at the key's own time, the place
    -- of the first of them, and the times of the first and of the last. The key's time
    -- never runs backwards, also when the server's does. It is not the request's:
    -- another key's time would free this one's early. A log that is sliced remains so
    -- while it lives.
    while true do
      local kind, time, last, count, base, place, first, sum, slice, stop = log and byte(log), now, 0, 0, 0
      if not log and limit <= EXACT then
        place, sum = EXACT_HEAD + 1, 0
      elseif not log then
        slice = ceil(window / 200)
        place, stop, base = SLICED_HEAD + 1, SLICED_HEAD + 1, ceil(now / slice)
      elseif kind == 101 and #log > EXACT_HEAD and (#log - EXACT_HEAD) % ENTRY == 0 then -- 'e'
        last, sum = unpack('>I7I3', log, #log - ENTRY + 1)
        if last > now then
          time = last
        end
        if last > time - window then
          base, first = unpack('>xI3I7', log)
          place = EXACT_HEAD + 1
          while first <= time - window do
            base, first = unpack('>I3xxxxxxxxxI7', log, place + 7)
            place = place + ENTRY
          end
        else
          base, place = sum, #log + 1
        end
        count = (sum - base) % SUMS
      elseif kind == 119 and #log >= SLICED_HEAD + TAIL and (#log - SLICED_HEAD - TAIL) % WEIGHT == 0 then -- 'w'
        local room, left, newest, ends, units
        slice, base = ceil(window / 200), unpack('>I7', log, 2)
        room, left, count, newest = unpack('>BI2I4I7', log, #log - TAIL + 1)
        place, stop = SLICED_HEAD + 1 + left * WEIGHT, #log - TAIL + 1 - room * WEIGHT
        if newest > now then
          time = newest
        end
        raised = raised or room > 0
        while place < stop do
          ends, units = unpack('>I2I4', log, place)
          ends = (base + ends) * slice
          if ends > time - window then
            first = ends
            break
          end
          count, place = count - units, place + WEIGHT
        end
        if stop > SLICED_HEAD + 1 then
          last = (base + unpack('>I2', log, stop - WEIGHT)) * slice
        end
      else
        error('WRONGTYPE a key is no log of takes')
      end
      key = { -- 16 fields with those of the one or the other kind: of more, Lua makes room for 32
        id = id, name = name, leases = leases, limit = limit, window = window, cost = cost, log = log,
        time = time, count = count, first = first, last = last, at = place, base = base,
      }
      if slice then
        key.slice, key.stop = slice, stop
      else
        key.sum = sum
      end
      if verb == GIVE and not given then
        others.give(key)
        log, given = call('GET', name), true
      elseif limit > EXACT and not slice then
        others = others or seldom(now, write, pack, unpack)
        log, raised = others.raised(key), true
      else
        break
      end
    end
    if raised then
      key.raised = true -- it is to be written whole
    end
    if not key.slice and (not longest or window > longest.window) then
      longest = key
    end
    keys[n], fits = key, fits and key.count + cost <= limit
  end

  if many or verb == RESET then
    for _, key in ipairs(keys) do
      others[verb](key, length, many)
    end
  else
    local before, takes
    local taking, first = verb == TAKE or verb == LEASE, verb == TAKE and 1 or 0
    if taking and longest then
      local found = longest.log and string.find(longest.log, id, EXACT_HEAD, true)
      before = found and unpack('>I7', longest.log, found - 10)
      fits = fits and first == 1 -- an exact log has no leases
    elseif taking and length > 0 then
      before, takes = others.granted(keys[1])
    end
    if taking and fits and not before then
      takes = wanted > 0 and not longest and others.leased(keys, first, wanted, length) or 0
      local gives = length > 0 and wanted == 0
      for n = 1, #keys do
        local key = keys[n]
        local log, time, slice = key.log, key.time, key.slice
        local ends = slice and ceil(time / slice)
        if not slice then
          local added = pack('>I7I3c9', time, (key.sum + key.cost) % SUMS, id)
          if log and key.at <= EXACT_HEAD + STALE * ENTRY then
            write(key, #log + 1, added, time)
          else -- what has left is cut off
            write(key, false, pack('>c1I3', 'e', key.base) .. sub(log or '', key.at) .. added, time)
          end
          key.count, key.first = key.count + key.cost, key.first or time
        elseif takes > 0 or gives or key.raised or key.last > ends * slice or ends < key.base or ends - key.base > SPAN then
          others = others or seldom(now, write, pack, unpack)
          others.take(key, first, takes, length, gives)
        else -- at its end
          local units, place, left = key.cost, key.stop, (key.at - SLICED_HEAD - 1) / WEIGHT
          if key.last == ends * slice then
            place = place - WEIGHT
            units = units + unpack('>I4', log, place + 2)
          end
          key.count, key.first = key.count + key.cost, key.first or ends * slice
          if log and left <= STALE then
            write(key, place, pack('>I2I4BI2I4I7', ends - key.base, units, 0, left, key.count, time), ends * slice)
          else -- what has left is cut off
            local kept = pack('>c1I7', 'w', key.base) .. sub(log or '', key.at, place - 1)
            write(key, false, kept .. pack('>I2I4BI2I4I7', ends - key.base, units, 0, 0, key.count, time), ends * slice)
          end
        end
      end
    end

    local admitted = (fits or before) and 1 or 0
    if taking and admitted == 0 then
      for _, key in ipairs(keys) do
        if key.slice and key.last + SETTLED > key.time then
          takes = 1
        end
      end
    end
    local reply
    for n = 1, #keys do
      local key, reset, retry = keys[n], 0, 0
      local over = key.count - key.limit
      if key.count > 0 then
        reset = over > 0 and leaves(key, over) or key.first + key.window - now
      end
      if taking and admitted == 1 then
        retry = (before or key.time) - now
      elseif key.cost > key.limit then
        retry = -1
      elseif over + key.cost > 0 then
        retry = leaves(key, over + key.cost - 1)
      end
      local left = over < 0 and -over or 0
      if n == 1 then
        reply = pack('>I8I8I8I8i8', admitted, takes or 0, left, reset, retry)
      else
        reply = reply .. pack('>I8I8i8', left, reset, retry)
      end
    end
    replies[#replies + 1] = reply
  end
end
return pack('>I8', now) .. (replies[2] and table.concat(replies) or replies[1] or '')
