-- Reads how far groups are behind: all of a stream at once, since what Redis tells of one costs
-- as much as what it tells of all.
--
-- KEYS[1]       the stream
-- ARGV          the groups
--
-- Reply: for each group how many entries are not acknowledged, and the ID of the oldest; 0 and ''
-- if there is no such group or stream.

-- Entries that are counted one by one where Redis does not know how many are unread.
local COUNTED = 16

-- Returns the milliseconds of an ID. As a float it is exact enough for an estimate.
local function ms_of(id)
  return tonumber(string.match(id, '^%d+'))
end

local length, from, to
local found = {}

-- Returns how many entries are after an ID, up to a count, and the ID of the first. Most groups
-- of a stream have read up to the same one.
local function find_after(id, count)
  local key = count .. ' ' .. id
  if not found[key] then
    local entries = call('XRANGE', KEYS[1], '(' .. id, '+', 'COUNT', count)
    found[key] = {#entries, entries[1] and entries[1][1]}
  end
  return unpack(found[key])
end

-- Returns how many entries are unread. Redis does not know it after an unread entry was deleted:
-- then a few are counted, and more are estimated by the time that they are of.
local function count_unread(group)
  length = length or call('XLEN', KEYS[1])
  if group['lag'] then return math.min(group['lag'], length) end
  local counted = find_after(group['last-delivered-id'], COUNTED)
  if counted < COUNTED then return counted end
  from = from or ms_of(call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1][1])
  to = to or ms_of(call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][1])
  local read = ms_of(group['last-delivered-id'])
  if read <= from then return length end
  return math.max(counted, math.floor(length * (to - read) / (to - from)))
end

-- Returns how many entries of a group are not acknowledged, and the ID of the oldest.
local function lag_of(group)
  local waiting, unread = call('XPENDING', KEYS[1], group['name']), count_unread(group)
  local oldest = waiting[2]
  if not oldest and unread > 0 then
    -- The next one is after the last one that was read.
    oldest = select(2, find_after(group['last-delivered-id'], 1))
  end
  return waiting[1] + unread, oldest or ''
end

local groups, reply = {}, {}
if call('EXISTS', KEYS[1]) == 1 then
  for _, group in ipairs(call('XINFO', 'GROUPS', KEYS[1])) do
    local fields = to_table(group)
    groups[fields['name']] = fields
  end
end
for i, name in ipairs(ARGV) do
  local entries, oldest = 0, ''
  if groups[name] then entries, oldest = lag_of(groups[name]) end
  reply[2 * i - 1], reply[2 * i] = entries, oldest
end
return reply
