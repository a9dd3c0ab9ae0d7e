-- Tries what calls need: that Redis has each command, and that the user may run it. It runs none of
-- them, and so writes nothing.
--
-- KEYS      none, or those of a mark, so that Redis refuses them as it would refuse the mark's:
--           the layout, the stream, a quota, cursors. Then it also reads whether the stream, which
--           every mark needs, is one, and can have another entry
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
if KEYS[2] and #missing == 0 then
  local LAST = '18446744073709551615-18446744073709551615'
  local last = redis.pcall('XREVRANGE', KEYS[2], '+', LAST, 'COUNT', 1)
  if last.err and string.find(last.err, 'WRONGTYPE', 1, true) then
    -- Where the cursors were moved from, the stream was closed on purpose: the layout says why.
    local version = redis.pcall('HGET', KEYS[1], 'version')
    if type(version) == 'string' and string.find(version, '-moved$') then return missing end
    return {err = 'WRONGTYPE the key of --stream is not a stream'}
  elseif #last > 0 then
    return {err = 'ERR the stream has the last possible ID: no event can be added'}
  end
end
return missing
