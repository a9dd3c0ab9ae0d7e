-- Erases the cursors of some readers in their conversations with one user, for operators.
--
-- KEYS[1]       the layout
-- KEYS[1+n]     the cursors of reader n
-- ARGV[1]       the layout's version
-- ARGV[2]       the user, the recipient of the conversations
--
-- Reply: how many cursors were erased; then the error of each reader whose cursors cannot be read.

local recipient, reply = ARGV[2], {0}

local function erase(key)
  local message, home = read_cursor(key, recipient)
  if not message then return end
  call('HDEL', home, recipient, '-' .. recipient)
  reply[1] = reply[1] + 1
end

-- Nothing is looked for under another version than the layout's.
local is_current, problem = pcall(buckets)
if not is_current then return {err = problem} end
for n = 2, #KEYS do
  local done, text = pcall(erase, KEYS[n])
  if not done then reply[#reply + 1] = text end
end
return reply
