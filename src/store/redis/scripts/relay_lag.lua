-- Reads how far a group is behind.
--
-- KEYS[1]       the stream
-- ARGV[1]       the group
--
-- Reply: how many entries are not acknowledged, and the ID of the oldest; 0 and '' if there is no
-- such group or stream.

-- Entries that are counted one by one where Redis does not know how many are unread.
local COUNTED = 128

-- Returns the milliseconds of an ID. As a float it is exact enough for an estimate.
local function ms_of(id)
  return tonumber(string.match(id, '^%d+'))
end

-- Returns how many entries are unread. Redis does not know it after an unread entry was deleted:
-- then so many are counted, and more are estimated by the time that they are of.
local function count_unread(group, length)
  if group['lag'] then return math.min(group['lag'], length) end
  local after = '(' .. group['last-delivered-id']
  local counted = #call('XRANGE', KEYS[1], after, '+', 'COUNT', COUNTED)
  if counted < COUNTED then return counted end
  local first = call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
  local newest = call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
  local read, from, to = ms_of(group['last-delivered-id']), ms_of(first[1]), ms_of(newest[1])
  if read <= from then return length end
  return math.max(counted, math.floor(length * (to - read) / (to - from)))
end

local group = find_group(KEYS[1], ARGV[1])
if not group then return {0, ''} end
local waiting = call('XPENDING', KEYS[1], ARGV[1])
local unread = count_unread(group, call('XLEN', KEYS[1]))
local oldest = waiting[2]
if not oldest then
  -- The next one is after the last one that was read.
  local after = '(' .. group['last-delivered-id']
  local entry = call('XRANGE', KEYS[1], after, '+', 'COUNT', 1)[1]
  oldest = entry and entry[1]
end
return {waiting[1] + unread, oldest or ''}
