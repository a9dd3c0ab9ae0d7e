-- Acknowledges entries of a feed.
--
-- KEYS[1..2]    the lease, the stream
-- ARGV[1..2]    the token, the group
-- ARGV[3..]     the entries' IDs
--
-- Reply: 'held', or 'lost' if the lease has another token or none: then nothing is done.

-- Lua puts so many values on its stack.
local STEP = 1000

if not is_held() then return {'lost'} end
for from = 3, #ARGV, STEP do
  call('XACK', KEYS[2], ARGV[2], unpack(ARGV, from, math.min(from + STEP - 1, #ARGV)))
end
return {'held'}
