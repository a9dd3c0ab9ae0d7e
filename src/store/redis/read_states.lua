-- Reads cursors, for one of the caller's quota of reads.
--
-- KEYS[1]       the caller's quota of reads   string, PX: reads used in the window, decimal
-- KEYS[1+n]     of cursor n: the cursors of its reader, as in mark_read.lua
-- ARGV[1..2]    reads served in a window, the window's ms
-- ARGV[2+n]     of cursor n: the recipient, canonical decimal
--
-- Returns
--   {'read', used, reset_at_ms, cursors}    of each cursor {message, read_at_ms}, or {} where none is set
--   {'over_quota', reset_at_ms, ttl_ms}     nothing was read
--   {'error', text}                         nothing was taken; text begins with Redis's error code

local LIMIT, WINDOW_MS = tonumber(ARGV[1]), tonumber(ARGV[2])

local function read_states()
  local quota, problem = read_quota(KEYS[1], WINDOW_MS)
  if not quota then return err(problem) end
  if (quota.used or 0) >= LIMIT then return over_quota(KEYS[1], quota) end
  local cursors = {}
  for n = 1, #KEYS - 1 do
    local cursor
    cursor, problem = read_cursor(KEYS[1 + n], ARGV[2 + n])
    if not cursor then return err(problem) end
    cursors[n] = cursor.message and {cursor.message, tonumber(cursor.read_at)} or {}
  end
  local taken = write_quota(KEYS[1], quota)
  if failed(taken) then return err(taken.err) end
  return {'read', quota.used, quota.reset_at_ms, cursors}
end

return read_states()
