-- A reader's quota, of marks or of reads: a string with an expiry, the calls used in the window.

local try = redis.pcall

-- Takes calls before it is known which of them are served. Returns what was used before, when the
-- window ends, whether the key has that expiry, and how many calls were taken; or nil and an error.
local function take(key, calls, limit, window_ms)
  local reply = try('INCRBY', key, calls)
  local used = tonumber(reply)
  if not used then
    -- A Redis that refuses writes can still deny a reader whose quota is used up.
    used = try('GET', key)
    if type(used) ~= 'string' or not is_count(used) or tonumber(used) < limit then
      return nil, reply.err
    end
    calls, used = 0, tonumber(used)
  end
  used = used - calls
  if used < 0 or used >= 1e15 then
    redis.call('INCRBY', key, -calls)
    return nil, 'CORRUPT the quota is not a count'
  end
  local reset_at_ms = call('PEXPIRETIME', key)
  if reset_at_ms >= 0 then return used, reset_at_ms, true, calls end
  return used, now_ms() + window_ms, false, calls
end

-- Gives back calls that were taken and not served, and sets the window's expiry.
local function settle(key, used, taken, served, reset_at_ms, has_expiry)
  local unserved = taken - served
  if unserved > 0 then
    if used + served == 0 and not has_expiry then
      -- This script created the key.
      redis.call('DEL', key)
      return
    end
    redis.call('INCRBY', key, -unserved)
  end
  if not has_expiry then redis.call('PEXPIREAT', key, reset_at_ms) end
end
