-- Reads new entries of a feed, which are pending from then on.
--
-- KEYS[1..2]    the lease, the stream
-- ARGV[1..2]    the token, the group
-- ARGV[3..4]    the last entry that the feed has read, how many entries to read at most
-- ARGV[5..6]    most bytes of one entry, and bytes after which no more are read
--
--   reply                                 when
--   'held', missed, pending, entry, …     the lease has the token: how many entries were removed
--                                         before the group read them, how many are pending now,
--                                         and entries as of `relay_entry.lua`
--   'lost'                                it has another token or none; or the group vanished. Then
--                                         the lease is given back, so that the next acquisition
--                                         creates the group

-- Entries that are read at a time: what they have more than ARGV[6] allows is bounded by this.
local STEP = 8

-- Returns how many entries were removed before the group read them.
--
-- Entries are trimmed from the oldest on: while one is left that the feed has read, no other was.
-- The newest of them is asked for, since its bytes were read before; the stream's oldest may have
-- any.
--
-- Where none is left, it is the difference of two counters: how many entries were removed, and
-- how many the group has read. Redis does not know the second after an unread entry was deleted
-- (XDEL), until the group has read the newest entry. What was missed is noted there, since only
-- later versions than 7.0 do so: it is told once, and not again if this reply is lost.
local function count_missed()
  if call('XREVRANGE', KEYS[2], ARGV[3], '-', 'COUNT', 1)[1] then return 0 end
  local group = find_group(KEYS[2], ARGV[2])
  local read = group and group['entries-read']
  if not read then return 0 end
  local lag, length = group['lag'], call('XLEN', KEYS[2])
  if lag and lag < length then return 0 end
  local stream = to_table(call('XINFO', 'STREAM', KEYS[2]))
  local last, first = group['last-delivered-id'], stream['first-entry']
  if first and not is_before(last, first[1]) then return 0 end
  local removed = stream['entries-added'] - length
  if removed <= read then return 0 end
  local counter = string.format('%.0f', removed)
  call('XGROUP', 'SETID', KEYS[2], ARGV[2], last, 'ENTRIESREAD', counter)
  return removed - read
end

if not is_held() then return {'lost'} end
local left, entry_max, bytes_max = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local reply, bytes, largest, count = {'held', count_missed(), 0}, 0, 1, 1
while left > 0 and bytes < bytes_max do
  local which = {'GROUP', ARGV[2], 'relay', 'COUNT', count, 'STREAMS', KEYS[2], '>'}
  local read, is_there = try('XREADGROUP', unpack(which))
  if not is_there then
    call('DEL', KEYS[1])
    return {'lost'}
  end
  local entries = read and read[1][2] or {}
  for _, entry in ipairs(entries) do
    local shaped, size = shape(entry[1], entry[2], 1, entry_max)
    reply[#reply + 1] = shaped
    bytes, largest = bytes + size, math.max(largest, size)
  end
  left = #entries < count and 0 or left - count
  -- The next ones are as large as those so far, most likely.
  count = math.min(left, STEP, math.max(1, math.floor((bytes_max - bytes) / largest)))
end
reply[3] = call('XPENDING', KEYS[2], ARGV[2])[1]
return reply
