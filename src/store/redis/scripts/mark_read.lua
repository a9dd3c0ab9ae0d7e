-- Marks messages as read: for each mark quota, comparison, cursor and event in one atomic step.
--
-- KEYS[1]       the stream
-- then          of each reader:
--   the quota     string, PX: calls used in the window, decimal
--   the cursors   hash: <recipient> -> message ID,
--                       -<recipient> -> ms since 1970 of the last advance;
--                 or buckets -> N, and such hashes in <key>:0 .. <key>:N-1
-- ARGV[1..3]    calls served in a window, the window's ms, the stream's approximate length (0: any)
-- ARGV[4]       marks of each reader
-- ARGV[5]       values of each mark: 2, or 3 where there are traceparents
-- ARGV[6..7]    how many user objects follow, and how many readers whose buckets were counted once
-- then          of each object: user ID, JSON object; a user without one appears with the ID alone
-- then          of each such reader: ID, number of buckets. It may be another by now
-- then          of each reader: user ID; of each of its marks: recipient, message ID, traceparent
--               (empty: none). IDs are canonical decimal, 1 .. 2^63-1
--
-- Returns when the cursors advanced that did, ms since 1970 (0: none); then of each mark, in order,
-- one behind the other:
--   used, reset_at_ms                   the cursor advanced: what begins with a number
--   'unchanged', cursor, read_at_ms, used, reset_at_ms
--   'over_quota', reset_at_ms, ttl_ms
--   'error', text                       nothing of this mark was written
-- and then of each reader whose buckets were counted: ID, number of buckets
--
-- The first write is the quota's, which a full Redis refuses; once it took that it takes the rest.
-- A mark's next write is XADD where there is an event, and what follows cannot fail any more. This
-- is the twin of `advances` in src/mark_read.rs and of `payload` in src/event.rs.

local STREAM = KEYS[1]
local LIMIT, WINDOW_MS = tonumber(ARGV[1]), tonumber(ARGV[2])
local MARKS, VALUES = tonumber(ARGV[4]), tonumber(ARGV[5])

local arg = 8
local objects, buckets_once = {}, {}
for _ = 1, tonumber(ARGV[6]) do
  objects[ARGV[arg]] = ARGV[arg + 1]
  arg = arg + 2
end
for _ = 1, tonumber(ARGV[7]) do
  buckets_once[ARGV[arg]] = tonumber(ARGV[arg + 1])
  arg = arg + 2
end
local buckets_now = {}

-- The stream is trimmed with the first event of a call, which makes room for all.
local trim_to = ARGV[3]
local function add(...)
  if trim_to == '0' then return call('XADD', STREAM, '*', ...) end
  call('XADD', STREAM, 'MAXLEN', '~', trim_to, '*', ...)
  trim_to = '0'
end

-- What is rare, and made where it is needed: batches and first cursors.
local rare
local function rarely()
  if rare then return rare end
  local call = redis.call

  -- A Lua function takes some thousands of values, and a hash may hold more.
  local function in_pieces(command, key, values)
    for first = 1, #values, 1000 do
      call(command, key, unpack(values, first, math.min(first + 999, #values)))
    end
  end

  -- A batch, that is several marks of a reader, has its cursors read before its first mark, with
  -- one command a hash, and written after its last one. Of each conversation: where the cursor
  -- stands, in which hash, and whether it got there in this batch; of each hash: what is to be
  -- written.
  local function begin_batch(key, first)
    local batch = {messages = {}, homes = {}, is_new = {}, unwritten = {}}
    local function read_ahead()
      local messages, homes, count = batch.messages, batch.homes, buckets().count_of(key)
      batch.count = count
      -- A bucket is named once: that costs as much as to find a cursor in it.
      local bucket_of, keys, recipients = made.bucket_of, {}, {}
      for arg = first, first + (MARKS - 1) * VALUES, VALUES do
        local recipient, home = ARGV[arg], key
        if count > 0 then
          local bucket = bucket_of(recipient, count)
          home = keys[bucket] or made.key_of(key, bucket)
          keys[bucket] = home
        end
        homes[recipient] = home
        local those = recipients[home]
        if those then those[#those + 1] = recipient else recipients[home] = {recipient} end
      end
      for home, those in pairs(recipients) do
        for n, message in ipairs(call('HMGET', home, unpack(those))) do
          messages[those[n]] = message
        end
      end
    end
    -- What cannot be read is read again by its mark, and fails there.
    pcall(read_ahead)
    return batch
  end

  local function write_behind(batch)
    for home, values in pairs(batch.unwritten) do in_pieces('HSET', home, values) end
    batch.unwritten = {}
  end

  -- Plans where the first cursor of a conversation goes. Where the hash that it belongs into is
  -- full, of a reader with so many buckets, the next bucket in turn is split in two before, or the
  -- one hash into the first two: then what goes from where, what of that comes where, and how many
  -- buckets there are afterwards. Whatever can fail is tried here, before anything is written.
  local function plan_beginning(batch, key, home, count)
    -- What the one hash holds before it is split, and a bucket before another one is. Redis looks
    -- at one field after the other: a bucket is short for speed, and not shorter for memory.
    local HASH_MAX, BUCKET_MAX = 64, 32
    -- What a bucket holds at least that is split: whoever picks recipients so that they share a
    -- bucket does not make buckets without end that hold nothing.
    local SPLIT_MIN = 10

    if batch then write_behind(batch) end
    if call('HLEN', home) < 2 * (count == 0 and HASH_MAX or BUCKET_MAX) then return nil end
    local from, first_new, new_count = key, 0, 2
    if count > 0 then
      from, first_new, new_count = made.key_of(key, count - made.level(count)), count, count + 1
      if call('HLEN', from) < 2 * SPLIT_MIN then return nil end
    end
    local moved, left = {}, {}
    for bucket = first_new, new_count - 1 do
      local into = made.key_of(key, bucket)
      if call('EXISTS', into) == 1 then error('CORRUPT a bucket is there before its time', 0) end
      moved[into] = {}
    end
    local fields = call('HGETALL', from)
    for n = 1, #fields, 2 do
      local values = moved[made.home_of(key, string.gsub(fields[n], '^-', ''), new_count)]
      if values then
        table.insert(left, fields[n])
        table.insert(values, fields[n])
        table.insert(values, fields[n + 1])
      end
    end
    return {from = from, left = left, moved = moved, count = new_count}
  end

  -- Sets the first cursor of a conversation as planned, and says in which hash.
  local function begin(plan, batch, key, home, recipient, message)
    if plan then
      for into, values in pairs(plan.moved) do in_pieces('HSET', into, values) end
      in_pieces('HDEL', plan.from, plan.left)
      call('HSET', key, 'buckets', plan.count)
      home = made.home_of(key, recipient, plan.count)
      if batch then batch.messages, batch.homes = {}, {} end
    end
    call('HSET', home, recipient, message, '-' .. recipient, clock)
    return home
  end

  rare = {
    begin_batch = begin_batch, write_behind = write_behind,
    plan_beginning = plan_beginning, begin = begin,
  }
  return rare
end

-- Where the cursor stands and since when, if that is not behind the mark; nothing if it advances.
local function mark(batch, key, reader, recipient, message, traceparent)
  local known, home, count
  if batch then
    known, home, count = batch.messages[recipient], batch.homes[recipient], batch.count
  end
  if known == nil then
    known, home, count = read_cursor(key, recipient, buckets_once[reader])
    if count and count > 0 then buckets_now[reader] = count end
  end
  local plan
  if known then
    if #known > #message or #known == #message and known >= message then
      if batch and batch.is_new[recipient] then return known, clock end
      return known, read_time(known, home, recipient)
    end
    -- What is no ID may be less as text; the greatest ID is above every message.
    if not find(known, '^[1-9]%d*$') then error('CORRUPT the cursor is no ID', 0) end
  else
    plan = rarely().plan_beginning(batch, key, home, count)
  end
  if not clock then now_ms() end

  -- The payload is put together of all its parts at once: user objects are long.
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
    add('payload', event, 'traceparent', traceparent)
  else
    add('payload', event)
  end

  if not known then
    home = rare.begin(plan, batch, key, home, recipient, message)
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
    batch.is_new[recipient] = true
  end
end

local replies, n = {0}, 1
for key = 2, #KEYS, 2 do
  local quota, cursors, reader = KEYS[key], KEYS[key + 1], ARGV[arg]
  arg = arg + 1
  local used, reset_at_ms, has_end, taken = take(quota, ARGV[4], LIMIT, WINDOW_MS)
  local batch = MARKS > 1 and used and rarely().begin_batch(cursors, arg)
  local served = 0
  for arg = arg, arg + (MARKS - 1) * VALUES, VALUES do
    if not used then
      replies[n + 1], replies[n + 2] = 'error', reset_at_ms
      n = n + 2
    elseif used + served >= LIMIT then
      replies[n + 1], replies[n + 2], replies[n + 3] =
        'over_quota', reset_at_ms, math.max(0, reset_at_ms - now_ms())
      n = n + 3
    else
      local traceparent = VALUES == 3 and ARGV[arg + 2] ~= '' and ARGV[arg + 2]
      local done, known, read_at =
        pcall(mark, batch, cursors, reader, ARGV[arg], ARGV[arg + 1], traceparent)
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
  if used and (served < MARKS or not has_end) then
    settle(quota, used, taken, served, reset_at_ms, has_end)
  end
end
replies[1] = clock_ms or 0
for reader, count in pairs(buckets_now) do
  replies[n + 1], replies[n + 2] = reader, count
  n = n + 2
end
return replies
