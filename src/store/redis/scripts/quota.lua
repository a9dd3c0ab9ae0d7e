-- A reader's quota, of marks or of reads: a string with an expiry, the calls used in the window.

local try = redis.pcall

-- Gives back calls that were taken and not served.
local function settle(key, used, taken, served, is_old)
  local unserved = taken - served
  if unserved == 0 then return end
  -- A key that this script created is removed, if the user may do that. If not, the next call sets
  -- the key's expiry.
  if used + served == 0 and not is_old and tonumber(try('DEL', key)) then return end
  call('INCRBY', key, -unserved)
end

-- Takes calls before it is known which of them are served. Returns what was used before, when the
-- window ends, whether the key had that expiry, and how many calls were taken; or nil and an error,
-- after which the quota is as it was.
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
  local expiry = try('PEXPIRETIME', key)
  local has_read = tonumber(expiry)
  if has_read and expiry >= 0 then return used, expiry, true, calls end
  local problem
  if not has_read then
    problem = expiry.err
  else
    -- The window begins before anything is served, so that whatever fails here is given back.
    local done, now = pcall(now_ms)
    local set = done and try('PEXPIREAT', key, now + window_ms)
    if tonumber(set) then return used, now + window_ms, false, calls end
    problem = done and set.err or now
  end
  settle(key, used, calls, 0, false)
  return nil, problem
end
