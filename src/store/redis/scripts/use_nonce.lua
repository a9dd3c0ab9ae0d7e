-- Uses a nonce, unless the quota of its reader is used up: a reader over quota leaves no keys.
--
-- KEYS[1..2]    the reader's quota, the nonce
-- ARGV[1..2]    calls served in a window, the window's ms
-- ARGV[3]       how long the nonce is kept, in ms
--
--   reply                                        when
--   'first'                                      the nonce was not used before
--   'repeated'                                   it was
--   'over_quota', reset_at_ms, ttl_ms            the quota is used up, and the nonce is not used

-- A value that is not a count is an error of the mark that follows.
local used = redis.pcall('GET', KEYS[1])
if type(used) == 'string' and is_count(used) and tonumber(used) >= tonumber(ARGV[1]) then
  local reset_at_ms = call('PEXPIRETIME', KEYS[1])
  if reset_at_ms < 0 then
    reset_at_ms = now_ms() + tonumber(ARGV[2])
    call('PEXPIREAT', KEYS[1], reset_at_ms)
  end
  return {'over_quota', reset_at_ms, math.max(0, reset_at_ms - now_ms())}
end
return {call('SET', KEYS[2], 1, 'NX', 'PX', ARGV[3]) and 'first' or 'repeated'}
