-- Marks messages as read: for each mark quota, comparison, cursor and event in one atomic step.
--
-- KEYS[1]      the stream
-- KEYS[2n]     of mark n: the reader's quota     string, PX: calls used in the window, decimal
-- KEYS[2n+1]   of mark n: the reader's cursors   hash: <recipient> -> message ID,
--                                                -<recipient> -> ms since 1970 of the last advance
-- ARGV[1..3]   calls served in a window, the window's ms, the stream's approximate length (0: any)
-- ARGV[4]      how many user objects follow
-- ARGV[5..]    of each: user ID, JSON object; a user without one appears with the ID alone
-- then         of each mark: reader, recipient, message ID, each canonical decimal, 1 .. 2^63-1
--
-- Returns one reply a mark, in order:
--   {'advanced', cursor, read_at_ms, used, reset_at_ms}
--   {'unchanged', cursor, read_at_ms, used, reset_at_ms}
--   {'over_quota', reset_at_ms, ttl_ms}
--   {'error', text}    nothing of this mark was written; text begins with Redis's error code
--
-- A script is isolated, but nothing rolls back. So a mark reads and validates everything before its
-- first write; its first write is XADD where there is an event (the write that a full Redis
-- refuses), and what follows cannot fail any more. Every command on a mark's own keys goes through
-- pcall: one mark's error is not its neighbours'. IDs are compared as text, since a Lua number is a
-- float. This is the twin of `advances` in src/mark_read.rs and of `payload` in src/event.rs.

local STREAM = KEYS[1]
local LIMIT, WINDOW_MS, STREAM_MAXLEN = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local USER_OBJECTS = tonumber(ARGV[4])
local MAX_ID = '9223372036854775807'

-- Redis's clock, asked once a script at most, and only where it is needed.
local clock_ms
local function now_ms()
  if not clock_ms then
    local time = redis.call('TIME')
    clock_ms = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return clock_ms
end

local function greater(a, b)
  if #a ~= #b then return #a > #b end
  return a > b
end

local function is_id(text)
  return string.match(text, '^[1-9]%d*$') and not greater(text, MAX_ID)
end

-- Whole and small enough for a float to hold exactly: a count of calls, ms since 1970. Canonical, as
-- INCR takes no other: it would fail where the mark is half done.
local function is_count(text)
  return #text <= 15 and (text == '0' or string.match(text, '^[1-9]%d*$'))
end

local function failed(reply)
  return type(reply) == 'table' and reply.err ~= nil
end

local function err(text)
  return {'error', text}
end

local function digits(number)
  return string.format('%.0f', number)
end

local objects = {}
for n = 1, USER_OBJECTS do
  objects[ARGV[3 + 2 * n]] = ARGV[4 + 2 * n]
end

local function user(id)
  return '"' .. id .. '":' .. (objects[id] or '{"id":"' .. id .. '"}')
end

local function payload(reader, recipient, message, created_ms)
  local users = user(reader)
  if recipient ~= reader then users = users .. ',' .. user(recipient) end
  return '{"direct_message_mark_read_events":[{"created_timestamp":"' .. created_ms
    .. '","sender_id":"' .. reader
    .. '","last_read_event_id":"' .. message
    .. '","target":{"recipient_id":"' .. recipient
    .. '"}}],"users":{' .. users .. '}}'
end

local function publish(event)
  if STREAM_MAXLEN == '0' then
    return redis.pcall('XADD', STREAM, '*', 'payload', event)
  end
  return redis.pcall('XADD', STREAM, 'MAXLEN', '~', STREAM_MAXLEN, '*', 'payload', event)
end

-- The reader's quota: {used, reset_at_ms, expires}, used being nil where no window is open. A key
-- without expiry is given the window's.
local function read_quota(key)
  local used = redis.pcall('GET', key)
  if failed(used) then return nil, used.err end
  if not used then return {used = nil, reset_at_ms = now_ms() + WINDOW_MS} end
  if not is_count(used) then return nil, 'CORRUPT the quota is no number' end
  local reset_at_ms = redis.pcall('PEXPIRETIME', key)
  if failed(reset_at_ms) then return nil, reset_at_ms.err end
  if reset_at_ms > 0 then
    return {used = tonumber(used), reset_at_ms = reset_at_ms, expires = true}
  end
  return {used = tonumber(used), reset_at_ms = now_ms() + WINDOW_MS, expires = false}
end

-- Takes one call of the quota.
local function write_quota(key, quota)
  if not quota.used then
    return redis.pcall('SET', key, '1', 'PXAT', digits(quota.reset_at_ms))
  end
  local reply = redis.pcall('INCR', key)
  if failed(reply) or quota.expires then return reply end
  return redis.pcall('PEXPIREAT', key, digits(quota.reset_at_ms))
end

-- The conversation's cursor: {message, read_at}, message being nil where it was never set.
local function read_cursor(key, recipient)
  local fields = redis.pcall('HMGET', key, recipient, '-' .. recipient)
  if failed(fields) then return nil, fields.err end
  local message, read_at = fields[1], fields[2]
  if not message then return {} end
  if not is_id(message) then return nil, 'CORRUPT the cursor is no ID' end
  if not read_at or not is_count(read_at) then return nil, 'CORRUPT the cursor has no time' end
  return {message = message, read_at = read_at}
end

local function mark_read(quota_key, cursors_key, reader, recipient, message)
  local quota, problem = read_quota(quota_key)
  if not quota then return err(problem) end
  local used = (quota.used or 0) + 1
  if used > LIMIT then
    if not quota.expires then
      local set = redis.pcall('PEXPIREAT', quota_key, digits(quota.reset_at_ms))
      if failed(set) then return err(set.err) end
    end
    return {'over_quota', quota.reset_at_ms, math.max(0, quota.reset_at_ms - now_ms())}
  end

  local cursor
  cursor, problem = read_cursor(cursors_key, recipient)
  if not cursor then return err(problem) end

  local outcome = 'unchanged'
  if not cursor.message or greater(message, cursor.message) then
    local read_at = digits(now_ms())
    local entry = publish(payload(reader, recipient, message, read_at))
    if failed(entry) then return err(entry.err) end
    local written = redis.pcall('HSET', cursors_key, recipient, message, '-' .. recipient, read_at)
    if failed(written) then return err(written.err) end
    outcome, cursor = 'advanced', {message = message, read_at = read_at}
  end

  local taken = write_quota(quota_key, quota)
  if failed(taken) then return err(taken.err) end
  return {outcome, cursor.message, tonumber(cursor.read_at), used, quota.reset_at_ms}
end

local replies = {}
for n = 1, (#KEYS - 1) / 2 do
  local arg = 2 + 2 * USER_OBJECTS + 3 * n
  replies[n] = mark_read(KEYS[2 * n], KEYS[2 * n + 1], ARGV[arg], ARGV[arg + 1], ARGV[arg + 2])
end
return replies
