-- Reads cursors, for one of the caller's read quota.
--
-- KEYS[1]       the layout
-- KEYS[2]       the caller's read quota
-- KEYS[2+n]     of cursor n: the cursors of its reader
-- ARGV[1]       the layout's version
-- ARGV[2..3]    reads served in a window (0: it costs nothing, and the quota is not touched), the
--               window's ms
-- ARGV[3+n]     of cursor n: the recipient, canonical decimal
--
-- Reply: that of read_quota.lua; where the read was served, then a list with each cursor:
-- {message, read_at_ms}, or {} if it was never set.

local function read_states(reply)
  local cursors = {}
  for n = 1, #KEYS - 2 do
    local key, recipient = KEYS[2 + n], ARGV[3 + n]
    local message, home = read_cursor(key, recipient)
    cursors[n] = message and {message, tonumber(read_time(message, home, recipient))} or {}
  end
  reply[4] = cursors
end

if ARGV[2] == '0' then
  local reply = {'read', 0, 0}
  local done, problem = pcall(read_states, reply)
  return done and reply or {'error', problem}
end
return read_for_one(KEYS[2], read_states)
