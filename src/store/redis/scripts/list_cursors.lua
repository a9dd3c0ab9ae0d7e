-- Reads a reader's cursors from some place on, for one of their quota of reads.
--
-- The order is that of a conversation's hash with its bits reversed: a bucket that is split is
-- there two neighbours that hold what it held, so a place stays where it is whatever is split
-- meanwhile.
--
-- KEYS[1]       the reader's quota of reads   string, PX: reads used in the window, decimal
-- KEYS[2]       the reader's cursors, as in mark_read.lua
-- ARGV[1..2]    reads served in a window, the window's ms
-- ARGV[3]       the recipient whose place it is; empty for the beginning
-- ARGV[4]       how many cursors are wanted from behind it
--
-- Returns
--   {'read', used, reset_at_ms, more, fields, …}    more: 1 where cursors follow behind; then
--                                                   the fields and values of whole hashes. What
--                                                   stands before the place is among them
--   {'over_quota', reset_at_ms, ttl_ms}             nothing was read
--   {'error', text}                                 nothing was taken

local FROM, WANTED = ARGV[3], tonumber(ARGV[4])

local function reversed(number, below)
  local result = 0
  while below > 1 do
    result = 2 * result + number % 2
    number = math.floor(number / 2)
    below = below / 2
  end
  return result
end

-- The hashes from the one of the place on, until there are enough cursors behind that one.
local function list_cursors(reply)
  local key, in_buckets = KEYS[2], buckets()
  local count = in_buckets.count_of(key)
  reply[4] = 0
  if count == 0 then
    reply[5] = call('HGETALL', key)
    return
  end
  local places = 2 * in_buckets.level(count)
  local place = 0
  if FROM ~= '' then place = reversed(in_buckets.bucket_of(FROM, count), places) end
  local behind, is_first = 0, true
  while place < places do
    local bucket = reversed(place, places)
    -- One that is not there yet is part of its neighbour, which came before it.
    if bucket < count then
      if behind >= WANTED then
        reply[4] = 1
        return
      end
      local fields = call('HGETALL', in_buckets.key_of(key, bucket))
      reply[#reply + 1] = fields
      if not is_first then behind = behind + #fields / 2 / 2 end
      is_first = false
    end
    place = place + 1
  end
end

return read_for_one(KEYS[1], list_cursors)
