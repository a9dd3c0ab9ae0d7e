-- Extends a lease.
--
-- KEYS[1]       the lease
-- ARGV[1..2]    the token, the lease's time in ms
--
-- Reply: 'held', or 'lost' if it has another token or none.

if not is_held() then return {'lost'} end
call('PEXPIRE', KEYS[1], ARGV[2])
return {'held'}
