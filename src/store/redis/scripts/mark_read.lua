-- Marks messages as read: for each mark quota, comparison, cursor and event in one atomic step. It
-- does batches, and the single marks that `single_marks.lua` leaves to it as rare.
-- `prelude.lua`, `quota.lua`, `buckets.lua`, `moves.lua`, `cursor.lua` and `batch.lua` are joined
-- before it and have the functions that it calls.
--
-- KEYS[1]       the layout
-- KEYS[2]       the stream of events
-- then          of each reader:
--   the quota     string with an expiry: calls used in the window, decimal
--   the cursors   hash: <recipient> -> message ID,
--                       -<recipient> -> ms since 1970 of the last advance;
--                 or their number, and such hashes (buckets.lua)
-- ARGV[1]       the layout's version
-- ARGV[2..4]    calls served in a window, the window's ms, the stream's approximate length (0: any)
-- ARGV[5]       marks of each reader
-- ARGV[6]       values of each mark: 2, or 3 with traceparents
-- ARGV[7..8]    how many user objects follow, and how many bucket hints
-- then          of each object: user ID, JSON object. A user without one appears with the ID alone
-- then          of each hint: user ID of the reader, bucket count, which may be stale
-- then          of each reader: user ID; of each of its marks: recipient, message ID, traceparent
--               (empty: none). IDs are canonical decimal, 1 .. 2^63-1
--
-- The reply is flat. It begins with Redis's clock, ms since 1970: the time of every advance in this
-- call (0: it was not read, and none advanced). Then come the values of each mark, in order; the
-- first one names the row:
--
--   values                                                     outcome
--   used (an integer), reset_at_ms                             the cursor advanced to the message
--   'unchanged', message ID, read_at_ms, used, reset_at_ms     the cursor was at or ahead of it
--   'over_quota', reset_at_ms, ttl_ms                          the quota is used up
--   'error', text                                              nothing of this mark was written
--
-- LAYOUT begins the text if the layout has another version than the server knows; of a batch it is
-- the error of the whole call, of which nothing was written.
--
-- Last come pairs: new bucket hints, of each reader whose buckets were counted: reader, bucket
-- count; and if cursors could not be moved to the current placement: 'unmoved', text.
--
-- The first write is the quota's, which a full Redis refuses; a Redis that accepts it accepts the
-- others. The next write of a mark is XADD, and what follows it cannot fail: that the user may run
-- it is checked before. This is the twin of `single_marks.lua`, of `advances` in src/domain/mark.rs
-- and of `event_payload` in src/domain/event.rs.

local find, STREAM = string.find, KEYS[2]
local LIMIT, WINDOW_MS = tonumber(ARGV[2]), tonumber(ARGV[3])
local MARKS, VALUES = tonumber(ARGV[5]), tonumber(ARGV[6])

-- A mark alone needs the version only if its cursor is not in the reader's own hash.
if MARKS > 1 then
  local done, problem = pcall(buckets)
  if not done then return {err = problem} end
end

local arg = 9
local objects, hints = {}, {}
for _ = 1, tonumber(ARGV[7]) do
  objects[ARGV[arg]] = ARGV[arg + 1]
  arg = arg + 2
end
for _ = 1, tonumber(ARGV[8]) do
  hints[ARGV[arg]] = tonumber(ARGV[arg + 1])
  arg = arg + 2
end
local counted = {}

-- Redis's clock as text, once a cursor advances.
local clock

-- Appends an event. The first one of a call trims the stream for all of them.
local trim_to = ARGV[4]
local function publish(...)
  if trim_to == '0' then return call('XADD', STREAM, '*', ...) end
  call('XADD', STREAM, 'MAXLEN', '~', trim_to, '*', ...)
  trim_to = '0'
end

-- Applies one mark. Returns nothing if the cursor advanced; otherwise the cursor's message, and
-- when it last advanced.
local function mark(batch, key, reader, recipient, message, traceparent)
  local known, home, count, old_count
  if batch then
    known, home, count = batch.messages[recipient], batch.homes[recipient], batch.count
  end
  if known == nil then
    known, home, count, old_count = read_cursor(key, recipient, hints[reader])
    if old_count and old_count > 0 and (count == 0 or not has_moved) then
      first_cursor_and_batch(MARKS, VALUES).move_some(key, count, old_count)
      known, home, count = read_cursor(key, recipient)
    end
    if count and count > 0 then counted[reader] = count end
  end
  local plan
  if known then
    -- The rule, `advances` in src/domain/mark.rs: canonical decimals in the order of integers.
    if #known > #message or #known == #message and known >= message then
      if batch and batch.advanced[recipient] then return known, clock end
      return known, read_time(known, home, recipient)
    end
    -- A text that is not an ID may compare as less. The greatest ID is ahead of every message.
    if not find(known, '^[1-9]%d*$') then error('CORRUPT the cursor is not an ID', 0) end
  else
    plan = first_cursor_and_batch(MARKS, VALUES).plan_first_cursor(batch, key, home, count)
  end
  if not clock then
    -- Once a call, before its first event, which would be left without its cursor. The check raises
    -- an error itself if Redis does not have the command, or (from 8.0) if a field and a value are
    -- missing.
    if not redis.acl_check_cmd('HSET', home, '', '') then
      error('NOPERM the user has no permissions to run HSET on cursors', 0)
    end
    clock = string.format('%d', now_ms())
  end

  -- The payload is one concatenation of all its parts, since user objects are long.
  local open, object, close = '{"id":"', reader, '"}'
  if objects[reader] then open, object, close = '', objects[reader], '' end
  local comma, other, colon, other_open, other_object, other_close =
    ',"', recipient, '":', '{"id":"', recipient, '"}'
  if other == reader then
    comma, other, colon, other_open, other_object, other_close = '', '', '', '', '', ''
  elseif objects[other] then
    other_open, other_object, other_close = '', objects[other], ''
  end
  local event = '{"direct_message_mark_read_events":[{"created_timestamp":"' .. clock
    .. '","sender_id":"' .. reader
    .. '","last_read_event_id":"' .. message
    .. '","target":{"recipient_id":"' .. recipient
    .. '"}}],"users":{"' .. reader .. '":' .. open .. object .. close
    .. comma .. other .. colon .. other_open .. other_object .. other_close .. '}}'
  if traceparent then
    publish('payload', event, 'traceparent', traceparent)
  else
    publish('payload', event)
  end

  if not known then
    home = rare.write_first_cursor(plan, batch, key, home, recipient, message, clock)
  elseif not batch then
    call('HSET', home, recipient, message, '-' .. recipient, clock)
    return
  else
    local values = batch.unwritten[home]
    if not values then
      values = {}
      batch.unwritten[home] = values
    end
    local n = #values
    values[n + 1], values[n + 2] = recipient, message
    values[n + 3], values[n + 4] = '-' .. recipient, clock
  end
  if batch then
    batch.messages[recipient], batch.homes[recipient] = message, home
    batch.advanced[recipient] = true
  end
end

local replies, n = {0}, 1
for key = 3, #KEYS, 2 do
  local quota, cursors, reader = KEYS[key], KEYS[key + 1], ARGV[arg]
  arg = arg + 1
  local used, reset_at_ms, is_old, taken = take(quota, ARGV[5], LIMIT, WINDOW_MS)
  local batch = MARKS > 1 and used
    and first_cursor_and_batch(MARKS, VALUES).begin_batch(cursors, arg)
  local served = 0
  for first = arg, arg + (MARKS - 1) * VALUES, VALUES do
    if not used then
      local problem = reset_at_ms -- where `take` returns its error
      replies[n + 1], replies[n + 2] = 'error', problem
      n = n + 2
    elseif used + served >= LIMIT then
      replies[n + 1], replies[n + 2], replies[n + 3] =
        'over_quota', reset_at_ms, math.max(0, reset_at_ms - now_ms())
      n = n + 3
    else
      local traceparent = VALUES == 3 and ARGV[first + 2] ~= '' and ARGV[first + 2]
      local done, known, read_at =
        pcall(mark, batch, cursors, reader, ARGV[first], ARGV[first + 1], traceparent)
      if not done then
        replies[n + 1], replies[n + 2] = 'error', known
        n = n + 2
      else
        served = served + 1
        if known then
          replies[n + 1], replies[n + 2], replies[n + 3] = 'unchanged', known, read_at
          n = n + 3
        end
        replies[n + 1], replies[n + 2] = used + served, reset_at_ms
        n = n + 2
      end
    end
  end
  arg = arg + MARKS * VALUES
  if batch then rare.write_behind(batch) end
  if used and served < MARKS then settle(quota, used, taken, served, is_old) end
end
replies[1] = clock_ms or 0
for reader, count in pairs(counted) do
  replies[n + 1], replies[n + 2] = reader, count
  n = n + 2
end
if move_problem then replies[n + 1], replies[n + 2] = 'unmoved', move_problem end
return replies
