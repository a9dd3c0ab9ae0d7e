-- Acknowledges entries of a feed.
--
-- KEYS[1..2]    the lease, the stream
-- ARGV[1..2]    the token, the group
-- ARGV[3..]     the entries' IDs: at least one, and not more than Lua can unpack
--
-- Reply: 'held', or 'lost' if the lease has another token or none: then nothing is done.

if not is_held() then return {'lost'} end
call('XACK', KEYS[2], ARGV[2], unpack(ARGV, 3))
return {'held'}
