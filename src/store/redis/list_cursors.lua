-- Reads a reader's cursors from some place on, for one of their quota of reads.
--
-- The order is that of a conversation's hash with its bits reversed: a bucket that is split is there
-- two neighbours that hold what it held, so a place stays where it is whatever is split meanwhile.
--
-- KEYS[1]       the reader's quota of reads   string, PX: reads used in the window, decimal
-- KEYS[2]       the reader's cursors, as in mark_read.lua
-- ARGV[1..2]    reads served in a window, the window's ms
-- ARGV[3]       the recipient whose place it is; empty for the beginning
-- ARGV[4]       how many cursors are wanted from behind it
--
-- Returns
--   {'read', used, reset_at_ms, more, fields, …}    more: 1 where cursors follow behind these; then the
--                                                   fields and values of whole hashes. What stands
--                                                   before the place is among them
--   {'over_quota', reset_at_ms, ttl_ms}             nothing was read
--   {'error', text}                                 nothing was taken; text begins with Redis's code

local LIMIT, WINDOW_MS, FROM, WANTED = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])

local function reversed(number, below)
  local result = 0
  while below > 1 do
    result = 2 * result + number % 2
    number = math.floor(number / 2)
    below = below / 2
  end
  return result
end

local function whole(key)
  local fields = redis.pcall('HGETALL', key)
  if failed(fields) then return nil, fields.err end
  return fields
end

-- The hashes from the one of the place on, until there are enough cursors behind that one.
local function collect(key, buckets)
  if buckets == 0 then
    local fields, problem = whole(key)
    return fields and {0, fields}, problem
  end
  local places = 2 * level(buckets)
  local place = 0
  if FROM ~= '' then place = reversed(bucket_of(FROM, buckets), places) end
  local collected, behind, is_first = {0}, 0, true
  while place < places do
    local bucket = reversed(place, places)
    -- One that is not there yet is part of its neighbour, which came before it.
    if bucket < buckets then
      if behind >= WANTED then
        collected[1] = 1
        return collected
      end
      local fields, problem = whole(bucket_key(key, bucket))
      if not fields then return nil, problem end
      collected[#collected + 1] = fields
      if not is_first then behind = behind + #fields / 2 / 2 end
      is_first = false
    end
    place = place + 1
  end
  return collected
end

local function list_cursors()
  local used, reset_at_ms, window = read_quota(KEYS[1], WINDOW_MS)
  if not used then return {'error', reset_at_ms} end
  if used >= LIMIT then return over_quota(KEYS[1], reset_at_ms, window) end
  local buckets, collected, problem
  buckets, problem = count_buckets(KEYS[2])
  if not buckets then return {'error', problem} end
  collected, problem = collect(KEYS[2], buckets)
  if not collected then return {'error', problem} end
  used, problem = take(KEYS[1], used, reset_at_ms, window)
  if not used then return {'error', problem} end
  local reply = {'read', used, reset_at_ms}
  for _, part in ipairs(collected) do reply[#reply + 1] = part end
  return reply
end

return list_cursors()
