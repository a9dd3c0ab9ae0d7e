-- Reads entries of a feed that were read before and not acknowledged.
--
-- XREADGROUP would count this as another delivery of each; XPENDING and XRANGE count nothing.
--
-- KEYS[1..2]    the lease, the stream
-- ARGV[1..2]    the token, the group
-- ARGV[3..4]    the least ID, how many entries to read at most
-- ARGV[5..6]    most bytes of one entry, and bytes after which no more are read
--
--   reply                      when
--   'held', entry, …           the lease has the token: entries as of `relay_entry.lua`; one that
--                              was deleted, not trimmed, has the word 'deleted'
--   'lost'                     it has another token or none; or the group vanished. Then the lease
--                              is given back, so that the next acquisition creates the group

-- The oldest entry's ID, as soon as it is asked for.
local oldest

-- Returns whether an entry that is gone was deleted (XDEL): trimming leaves none that is older.
-- False if it is not known.
local function was_deleted(id)
  if oldest == nil then
    local entry = call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
    oldest = entry and entry[1] or false
  end
  return oldest and is_before(oldest, id)
end

if not is_held() then return {'lost'} end
local which = {KEYS[2], ARGV[2], ARGV[3], '+', ARGV[4]}
local pending, is_there = try('XPENDING', unpack(which))
if not is_there then
  call('DEL', KEYS[1])
  return {'lost'}
end
local entry_max, bytes_max = tonumber(ARGV[5]), tonumber(ARGV[6])
local reply, bytes = {'held'}, 0
for _, waiting in ipairs(pending) do
  local id = waiting[1]
  local entry = call('XRANGE', KEYS[2], id, id)[1]
  local shaped, size = shape(id, entry and entry[2], waiting[4], entry_max)
  if not entry and was_deleted(id) then shaped[3] = 'deleted' end
  reply[#reply + 1] = shaped
  bytes = bytes + size
  if bytes >= bytes_max then break end
end
return reply
