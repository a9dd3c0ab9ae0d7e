-- Reads cursors, for one of the caller's quota of reads.
--
-- KEYS[1]       the caller's quota of reads   string, PX: reads used in the window, decimal
-- KEYS[1+n]     of cursor n: the cursors of its reader, as in mark_read.lua
-- ARGV[1..2]    reads served in a window, the window's ms
-- ARGV[2+n]     of cursor n: the recipient, canonical decimal
--
-- Returns
--   {'read', used, reset_at_ms, cursors}    of each cursor {message, read_at_ms}; {} where none is
--   {'over_quota', reset_at_ms, ttl_ms}     nothing was read
--   {'error', text}                         nothing was taken

local function read_states(reply)
  local cursors = {}
  for n = 1, #KEYS - 1 do
    local key, recipient = KEYS[1 + n], ARGV[2 + n]
    local message, home = read_cursor(key, recipient)
    cursors[n] = message and {message, tonumber(read_time(message, home, recipient))} or {}
  end
  reply[4] = cursors
end

return read_for_one(KEYS[1], read_states)
