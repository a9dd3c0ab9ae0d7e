-- Marks messages as read: single marks, each of any reader, for which nothing rare has to be done.
-- It does what `mark_read.lua` does, in two thirds of the time for a mark that is alone: it creates
-- no function, and the settings are in its first statement, which the server writes
-- (single_marks.rs):
--
--   LIMIT, WINDOW_MS   calls served in a window, the window's ms
--   VALUES             values of each mark: 3, or 4 with traceparents
--   MAXLEN, FIRST      the stream's approximate length ('0': any), and where the marks begin. The
--                      length is ARGV[2] if `--stream-max-bytes` changes it
--
-- and that declares, for all marks of a call:
--
--   clock              Redis's clock as text, once it was needed
--
-- KEYS[1]       the layout
-- KEYS[2]       the stream of events
-- then          of each mark: the reader's quota; the hash that has the cursor (buckets.lua): the
--               reader's own, or the bucket that the server expects, which may be wrong
-- ARGV[1]       the layout's version
-- then          of each mark: reader, recipient, message ID, traceparent (empty: none)
-- then          of each user object: user ID, JSON object. A user without one appears with the ID
--               alone
--
-- The reply is flat. It begins with Redis's clock as text, ms since 1970: the time of every advance
-- in this call (0: it was not read, and none advanced). Then come the values of each mark, in
-- order; the first one names the row:
--
--   values                                                     outcome
--   used (an integer over 0), reset_at_ms                      the cursor advanced to the message
--   'unchanged', message ID, read_at_ms, used, reset_at_ms     the cursor was at or ahead of it
--   0, 0                                                       rare: `mark_read.lua` has to do it
--
-- A mark is rare if its bucket is not known or was split, if its hash may be full, if its quota is
-- used up or has no expiry, if a value is corrupt, or if Redis refuses a command. Then nothing of
-- it is written: what can be read is read before the first write, the quota's, and the quota is
-- given back if a write after it is refused. So each mark is one atomic step, of this script or of
-- the other. Later marks of its reader in this call are rare too, which keeps their order.
--
-- So is a mark that looks into a bucket, or is the first of its conversation, while the layout has
-- another version. A cursor in its reader's own hash is the right one in every version.

local try, call, find, sub, tonumber = redis.pcall, redis.call, string.find, string.sub, tonumber
local STREAM = KEYS[2]
local AN_ID = '^[1-9]%d*$'

-- A bucket's key is longer than the own hash's, which is longer than the quota's by this much.
local LONGER = #'cursors' - #'quota'

local objects
local after_marks = FIRST + (#KEYS - 2) / 2 * VALUES
if ARGV[after_marks] then
  objects = {}
  for arg = after_marks, #ARGV, 2 do objects[ARGV[arg]] = ARGV[arg + 1] end
end

-- Whether the layout has the version, once it was needed; and the readers with a rare mark.
local is_current, rare
-- The first event of a call trims the stream for all of them.
local trims = MAXLEN ~= '0'

-- The table has the size of a lone mark's reply from its beginning.
local replies, n, arg = {0, 0, 0}, 1, FIRST
for key = 3, #KEYS, 2 do
  local quota, home = KEYS[key], KEYS[key + 1]
  local reader, recipient, message = ARGV[arg], ARGV[arg + 1], ARGV[arg + 2]
  local used, is_new, known, read_at, reset_at
  local is_done = false
  repeat
    if rare and rare[reader] then break end
    known = try('HGET', home, recipient)
    local in_bucket = #home > #quota + LONGER
    if in_bucket or not known then
      if is_current == nil then
        is_current = try('HMGET', KEYS[1], 'version')[1] == ARGV[1]
      end
      if not is_current then break end
    end
    if not known then
      -- The first cursor of a conversation.
      if in_bucket then break end
      local counts = try('HMGET', home, 'buckets', 'keyed_buckets')
      if counts[1] ~= false or counts[2] ~= false then break end
      local fields = tonumber(try('HLEN', home))
      if not fields or fields >= 128 then break end
    elseif #known > #message or #known == #message and known >= message then
      -- The rule, `advances` in src/domain/mark.rs: canonical decimals in the order of integers.
      if not find(known, AN_ID) or #known > 19 or #known == 19 and known > '9223372036854775807'
      then
        break
      end
      read_at = try('HGET', home, '-' .. recipient)
      if not read_at or #read_at > 15 or read_at ~= '0' and not find(read_at, AN_ID) then break end
    elseif #known == 0 or not find(known, AN_ID) then
      -- An error has no length either.
      break
    end

    reset_at = tonumber(try('PEXPIRETIME', quota))
    if not reset_at or reset_at == -1 then break end
    is_new = reset_at < 0
    if not clock and (is_new or not read_at) then
      -- Once a call, before its first event, which would be left without its cursor. The check
      -- raises an error itself if Redis does not have the command, or (from 8.0) if a field and a
      -- value are missing.
      local done, may = pcall(redis.acl_check_cmd, 'HSET', home, '', '')
      if not done or not may then break end
      local time = try('TIME')
      local seconds, us = time[1], time[2]
      if not us then break end
      if #us < 6 then us = sub('00000' .. us, -6) end
      clock = seconds .. sub(us, 1, 3)
    end

    used = tonumber(try('INCRBY', quota, '1'))
    if not used or used < 1 or used > LIMIT then break end
    if is_new then
      reset_at = clock + WINDOW_MS
      if not tonumber(try('PEXPIREAT', quota, reset_at)) then break end
    end
    if read_at then
      is_done = true
      break
    end

    -- The payload is one concatenation of all its parts, since Redis's Lua hashes every byte of
    -- each string that is made.
    local event
    if not objects and reader ~= recipient then
      event = '{"direct_message_mark_read_events":[{"created_timestamp":"' .. clock
        .. '","sender_id":"' .. reader
        .. '","last_read_event_id":"' .. message
        .. '","target":{"recipient_id":"' .. recipient
        .. '"}}],"users":{"' .. reader .. '":{"id":"' .. reader
        .. '"},"' .. recipient .. '":{"id":"' .. recipient .. '"}}}'
    else
      local open, object, close = '{"id":"', reader, '"}'
      if objects and objects[reader] then open, object, close = '', objects[reader], '' end
      local comma, other, colon, other_open, other_object, other_close =
        ',"', recipient, '":', '{"id":"', recipient, '"}'
      if other == reader then
        comma, other, colon, other_open, other_object, other_close = '', '', '', '', '', ''
      elseif objects[other] then
        other_open, other_object, other_close = '', objects[other], ''
      end
      event = '{"direct_message_mark_read_events":[{"created_timestamp":"' .. clock
        .. '","sender_id":"' .. reader
        .. '","last_read_event_id":"' .. message
        .. '","target":{"recipient_id":"' .. recipient
        .. '"}}],"users":{"' .. reader .. '":' .. open .. object .. close
        .. comma .. other .. colon .. other_open .. other_object .. other_close .. '}}'
    end
    local traceparent = VALUES == 4 and ARGV[arg + 3] ~= '' and ARGV[arg + 3] or nil
    local id
    if traceparent and trims then
      id = try('XADD', STREAM, 'MAXLEN', '~', MAXLEN, '*',
        'payload', event, 'traceparent', traceparent)
    elseif traceparent then
      id = try('XADD', STREAM, '*', 'payload', event, 'traceparent', traceparent)
    elseif trims then
      id = try('XADD', STREAM, 'MAXLEN', '~', MAXLEN, '*', 'payload', event)
    else
      id = try('XADD', STREAM, '*', 'payload', event)
    end
    if #id == 0 then break end
    trims = false
    call('HSET', home, recipient, message, '-' .. recipient, clock)
    is_done = true
  until true

  if not is_done then
    if used and not (is_new and tonumber(try('DEL', quota))) then call('INCRBY', quota, '-1') end
    rare = rare or {}
    rare[reader] = true
    used, reset_at = 0, 0
  elseif read_at then
    replies[n + 1], replies[n + 2], replies[n + 3] = 'unchanged', known, read_at
    n = n + 3
  end
  replies[n + 1], replies[n + 2] = used, reset_at
  n = n + 2
  arg = arg + VALUES
end
replies[1] = clock or 0
return replies
