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
-- Returns one text, of a line a mark, in order:
--   advanced <cursor> <read_at_ms> <used> <reset_at_ms>
--   unchanged <cursor> <read_at_ms> <used> <reset_at_ms>
--   over_quota <reset_at_ms> <ttl_ms>
--   error <text>       nothing of this mark was written; the text begins with Redis's error code
--
-- The first write of a mark is XADD where there is an event (the write that a full Redis refuses), and
-- what follows cannot fail any more. This is the twin of `advances` in src/mark_read.rs and of
-- `payload` in src/event.rs.
--
-- Most of Redis's time goes into this script, so it calls as few commands as it can, and makes no
-- tables: results are several values.

local STREAM = KEYS[1]
local LIMIT, WINDOW_MS, STREAM_MAXLEN = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local USER_OBJECTS = tonumber(ARGV[4])
-- Where in ARGV the readers and the marks begin.
local READER, MARK = 4 + 2 * USER_OBJECTS, 5 + 2 * USER_OBJECTS + (#KEYS - 1) / 2

local objects = {}
for n = 1, USER_OBJECTS do
  objects[ARGV[3 + 2 * n]] = ARGV[4 + 2 * n]
end

-- Of each reader, once the quota was read and as marks take of it.
local used, reset_at_ms, window = {}, {}, {}

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

-- The stream is trimmed with the first event of a call, which makes room for all.
local has_trimmed = STREAM_MAXLEN == '0'

local function add(...)
  if has_trimmed then return redis.pcall('XADD', STREAM, '*', ...) end
  has_trimmed = true
  return redis.pcall('XADD', STREAM, 'MAXLEN', '~', STREAM_MAXLEN, '*', ...)
end

local function publish(event, traceparent)
  local entry
  if traceparent == '' then
    entry = add('payload', event)
  else
    entry = add('payload', event, 'traceparent', traceparent)
  end
  return entry.err
end

-- Moves the cursor forward, and says when: a text, or nil and what is wrong.
local function advance(r, key, bucket, buckets, known, recipient, message, traceparent)
  local split, problem
  if not known then
    split, problem = plan_split(key, bucket, buckets)
    if problem then return nil, problem end
  end
  local read_at = digits(now_ms())
  problem = publish(payload(ARGV[READER + r], recipient, message, read_at), traceparent)
  if problem then return nil, problem end
  if split then bucket = do_split(key, split, recipient) end
  local written = redis.pcall('HSET', bucket, recipient, message, '-' .. recipient, read_at)
  if failed(written) then return nil, written.err end
  return read_at
end

local function err(text)
  return 'error ' .. text
end

local function mark_read(r, recipient, message, traceparent)
  local quota_key, key = KEYS[2 * r], KEYS[2 * r + 1]
  if not used[r] then
    local count, reset, state = read_quota(quota_key, WINDOW_MS)
    if not count then return err(reset) end
    used[r], reset_at_ms[r], window[r] = count, reset, state
  end
  if used[r] >= LIMIT then
    local left_ms, problem = deny(quota_key, reset_at_ms[r], window[r])
    if not left_ms then return err(problem) end
    window[r] = OPEN
    return 'over_quota ' .. digits(reset_at_ms[r]) .. ' ' .. digits(left_ms)
  end

  local known, bucket, buckets = read_cursor(key, recipient)
  if known == nil then return err(bucket) end
  local outcome, read_at, problem = 'unchanged ', nil, nil
  if not known or greater(message, known) then
    read_at, problem = advance(r, key, bucket, buckets, known, recipient, message, traceparent)
    outcome, known = 'advanced ', message
  else
    read_at, problem = read_time(bucket, recipient)
  end
  if not read_at then return err(problem) end

  local count
  count, problem = take(quota_key, used[r], reset_at_ms[r], window[r])
  if not count then return err(problem) end
  used[r], window[r] = count, OPEN
  return outcome .. known .. ' ' .. read_at .. ' ' .. digits(count) .. ' ' .. digits(reset_at_ms[r])
end

local replies = {}
for arg = MARK, #ARGV, 4 do
  replies[#replies + 1] = mark_read(tonumber(ARGV[arg]), ARGV[arg + 1], ARGV[arg + 2], ARGV[arg + 3])
end
return table.concat(replies, '\n')
