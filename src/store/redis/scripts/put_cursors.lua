-- Puts cursors, for operators: no quota and no event. Each is placed as a mark would place it, and
-- stands alone: an error of one does not affect the others.
--
-- KEYS[1]       the layout
-- KEYS[1+n]     of cursor n: the cursors of its reader
-- ARGV[1]       the layout's version
-- ARGV[2]       'forward': a cursor only moves forward; 'force': also back
-- then          of each cursor: recipient, message ID (canonical decimal, 1 .. 2^63-1), and when it
--               advanced, ms since 1970 (empty: by Redis's clock)
--
-- Reply: why cursors could not be moved to the current placement ('': they could, or none had to);
-- then two values of each cursor, in order:
--
--   values                  outcome
--   'advanced', known       written; `known` is the message before it ('': none, or not an ID)
--   'unchanged', known      the cursor was there already
--   'behind', known         the cursor was ahead, and 'force' was not given
--   'error', text           nothing of this cursor was written

local FORCE = ARGV[2] == 'force'
first_cursor_and_batch(1, 3)

local function is_id(message)
  return message and string.find(message, '^[1-9]%d*$')
end

local function put(key, recipient, message, read_at)
  local known, home, count, old_count = read_cursor(key, recipient)
  if old_count and old_count > 0 and (count == 0 or not has_moved) then
    rare.move_some(key, count, old_count)
    known, home, count = read_cursor(key, recipient)
  end
  local plan
  if known == message then return 'unchanged', known end
  if not known then
    plan = rare.plan_first_cursor(nil, key, home, count)
  elseif not FORCE then
    if not is_id(known) then error('CORRUPT the cursor is not an ID', 0) end
    -- The rule, `advances` in src/domain/mark.rs.
    if #known > #message or #known == #message and known > message then return 'behind', known end
  end
  local time = read_at ~= '' and read_at or string.format('%d', now_ms())
  if known then
    call('HSET', home, recipient, message, '-' .. recipient, time)
  else
    rare.write_first_cursor(plan, nil, key, home, recipient, message, time)
  end
  return 'advanced', is_id(known) and known or ''
end

-- Nothing is written under another version than the layout's.
local is_current, problem = pcall(buckets)
if not is_current then return {err = problem} end
local reply = {''}
for n = 2, #KEYS do
  local arg = 3 * n - 3
  local done, outcome, known = pcall(put, KEYS[n], ARGV[arg], ARGV[arg + 1], ARGV[arg + 2])
  if not done then outcome, known = 'error', outcome end
  reply[#reply + 1], reply[#reply + 2] = outcome, known
end
if move_problem then reply[1] = move_problem end
return reply
