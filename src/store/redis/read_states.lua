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
  local used, reset_at_ms, window = read_quota(KEYS[1], WINDOW_MS)
  if not used then return {'error', reset_at_ms} end
  if used >= LIMIT then return over_quota(KEYS[1], reset_at_ms, window) end
  local cursors = {}
  for n = 1, #KEYS - 1 do
    local message, key = read_cursor(KEYS[1 + n], ARGV[2 + n])
    if message == nil then return {'error', key} end
    cursors[n] = {}
    if message then
      local read_at, problem = read_time(key, ARGV[2 + n])
      if not read_at then return {'error', problem} end
      cursors[n] = {message, tonumber(read_at)}
    end
  end
  local problem
  used, problem = take(KEYS[1], used, reset_at_ms, window)
  if not used then return {'error', problem} end
  return {'read', used, reset_at_ms, cursors}
end

return read_states()
