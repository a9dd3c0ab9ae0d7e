-- Marks messages as read: for each mark quota, comparison, cursor and event in one atomic step.
--
-- KEYS[1]       the stream
-- KEYS[2r]      of reader r: the quota     string, PX: calls used in the window, decimal
-- KEYS[2r+1]    of reader r: the cursors   hash: <recipient> -> message ID,
--                                          -<recipient> -> ms since 1970 of the last advance;
--                                          or buckets -> N, and such hashes in <key>:0 .. <key>:N-1
-- ARGV[1..3]    calls served in a window, the window's ms, the stream's approximate length (0: any)
-- ARGV[4]       how many user objects follow
-- ARGV[5..]     of each: user ID, JSON object; a user without one appears with the ID alone
-- then          of each reader: user ID
-- then          of each mark: r, recipient, message ID, traceparent (empty: none); IDs are canonical
--               decimal, 1 .. 2^63-1
--
-- Returns one reply a mark, in order:
--   {'advanced', cursor, read_at_ms, used, reset_at_ms}
--   {'unchanged', cursor, read_at_ms, used, reset_at_ms}
--   {'over_quota', reset_at_ms, ttl_ms}
--   {'error', text}    nothing of this mark was written; text begins with Redis's error code
--
-- The first write of a mark is XADD where there is an event (the write that a full Redis refuses), and
-- what follows cannot fail any more. This is the twin of `advances` in src/mark_read.rs and of
-- `payload` in src/event.rs.

local STREAM = KEYS[1]
local LIMIT, WINDOW_MS, STREAM_MAXLEN = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local USER_OBJECTS = tonumber(ARGV[4])
local READERS = (#KEYS - 1) / 2

local objects = {}
for n = 1, USER_OBJECTS do
  objects[ARGV[3 + 2 * n]] = ARGV[4 + 2 * n]
end

-- Of each reader: {id, quota_key, cursors_key, quota}, the quota once it was read.
local readers = {}
for r = 1, READERS do
  readers[r] = {id = ARGV[4 + 2 * USER_OBJECTS + r], quota_key = KEYS[2 * r], cursors_key = KEYS[2 * r + 1]}
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

local function add(...)
  if STREAM_MAXLEN == '0' then return redis.pcall('XADD', STREAM, '*', ...) end
  return redis.pcall('XADD', STREAM, 'MAXLEN', '~', STREAM_MAXLEN, '*', ...)
end

local function publish(event, traceparent)
  if traceparent == '' then return add('payload', event) end
  return add('payload', event, 'traceparent', traceparent)
end

local function mark_read(reader, recipient, message, traceparent)
  local problem
  if not reader.quota then
    reader.quota, problem = read_quota(reader.quota_key, WINDOW_MS)
    if not reader.quota then return err(problem) end
  end
  local quota = reader.quota
  if (quota.used or 0) >= LIMIT then return over_quota(reader.quota_key, quota) end

  local cursor
  cursor, problem = read_cursor(reader.cursors_key, recipient)
  if not cursor then return err(problem) end

  local outcome = 'unchanged'
  if not cursor.message or greater(message, cursor.message) then
    local split
    if not cursor.message then
      split, problem = plan_split(reader.cursors_key, cursor)
      if problem then return err(problem) end
    end
    local read_at = digits(now_ms())
    local entry = publish(payload(reader.id, recipient, message, read_at), traceparent)
    if failed(entry) then return err(entry.err) end
    if split then cursor.key = do_split(reader.cursors_key, split, recipient) end
    local written = redis.pcall('HSET', cursor.key, recipient, message, '-' .. recipient, read_at)
    if failed(written) then return err(written.err) end
    outcome, cursor = 'advanced', {message = message, read_at = read_at}
  end

  local taken = write_quota(reader.quota_key, quota)
  if failed(taken) then return err(taken.err) end
  return {outcome, cursor.message, tonumber(cursor.read_at), quota.used, quota.reset_at_ms}
end

local replies = {}
local first = 4 + 2 * USER_OBJECTS + READERS
for n = 1, (#ARGV - first) / 4 do
  local arg = first + 4 * n - 3
  replies[n] = mark_read(readers[tonumber(ARGV[arg])], ARGV[arg + 1], ARGV[arg + 2], ARGV[arg + 3])
end
return replies
