-- Gives a lease back.
--
-- KEYS[1]       the lease
-- ARGV[1]       the token
--
-- Reply: 'held', or 'lost' if it has another token or none: then nothing is done.

if not is_held() then return {'lost'} end
call('DEL', KEYS[1])
return {'held'}
