-- Acquires the lease of a feed that nobody else has, and creates its consumer group if it is
-- absent.
--
-- KEYS[1..2]    the lease, the stream
-- ARGV[1..2]    the token, the lease's time in ms
-- ARGV[3..4]    the group, the ID after which it begins if it is new
--
--   reply                        when
--   'held', id                   the lease has the token now, the group has read up to this ID
--   'lost'                       another process has the lease

local owner = call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return {'lost'} end
local group = find_group(KEYS[2], ARGV[3])
local last = ARGV[4]
if group then
  last = group['last-delivered-id']
else
  local create = {KEYS[2], ARGV[3], last, 'MKSTREAM'}
  -- What was removed before the group began does not count as missed. If entries are left that are
  -- older than where it begins, Redis does not know how many, until the group has read the newest.
  local removed = 0
  if call('EXISTS', KEYS[2]) == 1 then
    local stream = to_table(call('XINFO', 'STREAM', KEYS[2]))
    local first = stream['first-entry']
    removed = stream['entries-added'] - stream['length']
    if first and not is_before(last, first[1]) then removed = nil end
  end
  if removed then
    create[5], create[6] = 'ENTRIESREAD', string.format('%.0f', removed)
  end
  call('XGROUP', 'CREATE', unpack(create))
end
call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {'held', last}
