-- Reads dead letters of a webhook.
--
-- KEYS[1]       the stream of dead letters
-- ARGV[1..2]    the least ID, how many to read at most
-- ARGV[3..4]    most bytes of one letter, and bytes after which no more are read
--
-- Reply: for each letter its ID and its fields; no fields if it is larger.

-- Letters that are read at a time.
local STEP = 8

local from, left = ARGV[1], tonumber(ARGV[2])
local letter_max, bytes_max = tonumber(ARGV[3]), tonumber(ARGV[4])
local reply, bytes = {}, 0
while left > 0 and bytes < bytes_max do
  local count = math.min(left, STEP)
  local letters = call('XRANGE', KEYS[1], from, '+', 'COUNT', count)
  for _, letter in ipairs(letters) do
    local size = 0
    for _, text in ipairs(letter[2]) do size = size + #text end
    reply[#reply + 1] = {letter[1], size > letter_max and {} or letter[2]}
    bytes = bytes + math.min(size, letter_max)
    from = '(' .. letter[1]
  end
  left = #letters < count and 0 or left - count
end
return reply
