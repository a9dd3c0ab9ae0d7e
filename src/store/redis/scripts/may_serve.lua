-- Tries what calls need: that Redis has each command, and that the user may run it. It runs none of
-- them, and so writes nothing.
--
-- KEYS      none, or those of a mark, so that Redis refuses them as it would refuse the mark's
-- ARGV      for each command: how many words it has, and the words
--
-- Reply: the number of each command that may not be run, from 1; below 0 if Redis does not have it.

local missing, arg, n = {}, 1, 0
while ARGV[arg] do
  local words = tonumber(ARGV[arg])
  n = n + 1
  local exists, may = pcall(redis.acl_check_cmd, unpack(ARGV, arg + 1, arg + words))
  if not exists then
    missing[#missing + 1] = -n
  elseif not may then
    missing[#missing + 1] = n
  end
  arg = arg + 1 + words
end
return missing
