-- A reader's quota, of marks or of reads: a string with an expiry, the calls used in the window.

local try = redis.pcall

-- Gives back calls that were taken and not served.
local function settle(key, used, taken, served, is_old)
  local unserved = taken - served
  if unserved == 0 then return end
  -- A key that this script created is removed, if the user may do that: what it leaves expires.
  if used + served == 0 and not is_old and tonumber(try('DEL', key)) then return end
  call('INCRBY', key, -unserved)
end

-- Begins the window of a quota that has no expiry. Returns when it ends; or nil and an error.
local function begin_window(key, window_ms)
  local done, now = pcall(now_ms)
  if not done then return nil, now end
  local reset_at_ms = now + window_ms
  local set = try('PEXPIREAT', key, reset_at_ms)
  if type(set) == 'table' then return nil, set.err end
  return reset_at_ms
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
  local reset_at_ms, problem
  if type(expiry) == 'table' then
    problem = expiry.err
  elseif expiry >= 0 then
    return used, expiry, true, calls
  else
    reset_at_ms, problem = begin_window(key, window_ms)
  end
  if reset_at_ms then return used, reset_at_ms, false, calls end
  settle(key, used, calls, 0, false)
  return nil, problem
end
