-- Reads a reader's cursors from a place on, for one of the reader's read quota.
--
-- The cursors are in the order of their conversations' hashes with the 31 bits reversed: there a
-- split bucket becomes two neighbours, so that a place stays valid whatever is split meanwhile. A
-- hash past LARGE is read in parts, in the order of HSCAN; whole, if the server's user may not run
-- it, which servers of earlier versions did not need.
--
-- KEYS[1]       the layout
-- KEYS[2]       the reader's read quota
-- KEYS[3]       the reader's cursors
-- ARGV[1]       the layout's version
-- ARGV[2..3]    reads served in a window (0: this read costs none), the window's ms
-- ARGV[4]       the place, below 2^31
-- ARGV[5]       how many cursors to read
-- ARGV[6..8]    where a large hash was left: bucket count at that time (empty: nowhere), HSCAN's
--               cursor, and the recipient up to which its next step has been read (0: none)
--
-- Reply: that of read_quota.lua; where the read was served, then
--   more                1 if more cursors follow, else 0; 2 if nothing was read, since cursors are
--                       being moved: move_reader.lua moves some
--   place               where the next read begins; -1: at the last cursor of this one
--   count, scan, until  where a large hash was left, as in ARGV[6..8]; '' if none was
-- then for each hash that was read, its fields and values. They include cursors before the place. A
-- text in their place says why the large hash that follows it could not be read in parts.

local START, WANTED = tonumber(ARGV[4]), tonumber(ARGV[5])
local PLACES = 2147483648

-- Hashes that one call reads; steps of HSCAN; and the last cursors of a page, for which a step is
-- of one slot, so that few are read in vain.
local READ_MAX, STEPS_MAX, LAST = 512, 256, 16

local function reversed(number, below)
  local result = 0
  while below > 1 do
    result = 2 * result + number % 2
    number = math.floor(number / 2)
    below = below / 2
  end
  return result
end

local function is_before(one, other)
  return #one < #other or #one == #other and one < other
end

-- Reads a part of a large hash. Returns fields and values, HSCAN's cursor, and the recipient up to
-- which the step at that cursor has been read ('0': none of it).
local function read_part(hash, count)
  local scan, done_until = '0', '0'
  if ARGV[6] == tostring(count) then scan, done_until = ARGV[7], ARGV[8] end
  local messages, recipients, one_slot = {}, {}, done_until ~= '0'
  for _ = 1, STEPS_MAX do
    local wanted = WANTED - #recipients
    local slots = (one_slot or wanted <= LAST) and 1 or wanted
    local step = call('HSCAN', hash, scan, 'COUNT', slots)
    local fields, found, values = step[2], {}, {}
    for n = 1, #fields, 2 do
      local recipient = fields[n]
      local is_new = is_before(done_until, recipient) and not messages[recipient]
      if is_new and string.find(recipient, '^[1-9]') then
        found[#found + 1] = recipient
        values[recipient] = fields[n + 1]
      end
    end
    if #found > wanted and slots > 1 then
      -- Only a step of one slot can be read up to a recipient, and the rest of it later.
      one_slot = true
    elseif #found > wanted and #recipients > 0 then
      -- A step is read whole if it can be: while the hash's table is enlarged, the same step may
      -- later be a smaller one, and its other cursors come once more.
      break
    else
      local rest = #found > wanted
      if rest then table.sort(found, is_before) end
      for n = 1, math.min(#found, wanted) do
        recipients[#recipients + 1] = found[n]
        messages[found[n]] = values[found[n]]
      end
      if rest then
        done_until = found[wanted]
        break
      end
      scan, done_until, one_slot = step[1], '0', false
      if scan == '0' or #recipients >= WANTED then break end
    end
  end
  local part = {}
  for first = 1, #recipients, 500 do
    local fields = {}
    for n = first, math.min(first + 499, #recipients) do
      fields[#fields + 1] = '-' .. recipients[n]
    end
    for n, time in ipairs(call('HMGET', hash, unpack(fields))) do
      local recipient = recipients[first + n - 1]
      part[#part + 1], part[#part + 2] = recipient, messages[recipient]
      if time then part[#part + 1], part[#part + 2] = fields[n], time end
    end
  end
  return part, scan, done_until
end

-- Reads the hashes from the place's own on, until there are enough cursors in those after it.
local function list_cursors(reply)
  local key, in_buckets = KEYS[3], buckets()
  local count, old_count = in_buckets.counts_of(key)
  if count == 0 and old_count == 0 and in_buckets.old and call('HLEN', key) > 2 * LARGE then
    moves().begin_move(key)
    old_count = 1
  end
  if old_count > 0 then
    local _, moving = moves().move(key)
    if moving then
      reply[4] = 2
      return
    end
    count = in_buckets.counts_of(key)
  end
  reply[4], reply[5], reply[6], reply[7], reply[8] = 0, -1, '', '', ''
  local places = count == 0 and 1 or 2 * in_buckets.level(count)
  local width = PLACES / places
  local function exists(place)
    return count == 0 or reversed(place, places) < count
  end
  local place = math.floor(START / width)
  -- A bucket that does not exist yet is part of its neighbour, which comes before it.
  if not exists(place) then place = place - 1 end
  local behind, read = 0, 0
  while place < places do
    if exists(place) then
      if behind >= WANTED then
        reply[4] = 1
        return
      end
      local home = key
      if count > 0 then
        home = in_buckets.key_of(in_buckets.current, key, reversed(place, places))
      end
      local is_large = call('HLEN', home) > 2 * LARGE
      if read > 0 and (is_large or read >= READ_MAX) then
        reply[4], reply[5] = 1, place * width
        return
      end
      local in_parts, part, scan, done_until
      if is_large then in_parts, part, scan, done_until = pcall(read_part, home, count) end
      if in_parts then
        reply[9] = part
        if scan == '0' and done_until == '0' then
          repeat place = place + 1 until place >= places or exists(place)
          if place < places then reply[4], reply[5] = 1, place * width end
        else
          reply[4], reply[5] = 1, place * width
          reply[6], reply[7], reply[8] = tostring(count), scan, done_until
        end
        return
      end
      if is_large then reply[#reply + 1] = part end
      local fields = call('HGETALL', home)
      reply[#reply + 1] = fields
      if read > 0 then behind = behind + #fields / 2 / 2 end
      read = read + 1
    end
    place = place + 1
  end
end

if ARGV[2] == '0' then
  local reply = {'read', 0, 0}
  local done, problem = pcall(list_cursors, reply)
  return done and reply or {'error', problem}
end
return read_for_one(KEYS[2], list_cursors)
