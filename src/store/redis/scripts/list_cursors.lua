-- Reads a reader's cursors after a place, for one of the reader's read quota.
--
-- The cursors are in the order of their conversations' hashes with the bits reversed: there a split
-- bucket becomes two neighbours, so that a place stays valid whatever is split meanwhile.
--
-- KEYS[1]       the reader's read quota
-- KEYS[2]       the reader's cursors
-- ARGV[1..2]    reads served in a window, the window's ms
-- ARGV[3]       the recipient at that place; empty for the beginning
-- ARGV[4]       how many cursors to read after it
--
-- Reply: that of read_quota.lua; where the read was served, then 1 if more cursors follow, else 0;
-- then for each hash that was read, its fields and values. They include cursors before the place.

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

-- Reads the hashes from the place's own on, until there are enough cursors in those after it.
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
    -- A bucket that does not exist yet is part of its neighbour, which came before it.
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
