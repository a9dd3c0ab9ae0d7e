-- Notes how often pending entries of a feed were attempted, as the counts of their deliveries.
--
-- KEYS[1..2]    the lease, the stream
-- ARGV[1..2]    the token, the group
-- ARGV[3..]     for each entry: its ID, and the count
--
-- Reply: 'held', or 'lost' if the lease has another token or none: then nothing is done.

if not is_held() then return {'lost'} end
for i = 3, #ARGV, 2 do
  local id = ARGV[i]
  -- XCLAIM forgets a pending entry that the stream does not have any more: it would never be told
  -- that it was removed.
  if #call('XRANGE', KEYS[2], id, id) > 0 then
    call('XCLAIM', KEYS[2], ARGV[2], 'relay', 0, id, 'RETRYCOUNT', ARGV[i + 1], 'JUSTID')
  end
end
return {'held'}
