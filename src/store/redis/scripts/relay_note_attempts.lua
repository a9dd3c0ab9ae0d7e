-- Notes how often pending entries of a feed were attempted, as the counts of their deliveries.
--
-- KEYS[1..2]    the lease, the stream
-- ARGV[1..2]    the token, the group
-- ARGV[3..]     for each entry: its ID, and the count
--
-- Reply: 'held', or 'lost' if the lease has another token or none: then nothing is done.

if not is_held() then return {'lost'} end
local oldest = call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
for i = 3, #ARGV, 2 do
  local id = ARGV[i]
  -- XCLAIM forgets a pending entry that the stream does not have any more: one that was trimmed
  -- would never be told. What was deleted (XDEL) need not be.
  if oldest and not is_before(id, oldest[1]) then
    call('XCLAIM', KEYS[2], ARGV[2], 'relay', 0, id, 'RETRYCOUNT', ARGV[i + 1], 'JUSTID')
  end
end
return {'held'}
