-- Where a reader's cursors are. Up to 64 conversations they are in one hash, the reader's. From
-- then on they are in buckets, by linear hashing (Litwin, VLDB 1980): the reader's hash has only
-- their number N, and the low bits of a conversation's hash name its bucket. With m the greatest
-- power of two up to N, those are the bits of 2m; if that bucket does not exist yet, the bits of m.
--
-- There are two placements, each with its own hash function, field for N and names of buckets. The
-- layout's version decides which one is current:
--
--   version     current   old, from which cursors are moved (moves.lua)
--   '1'         plain     none
--   '2'         keyed     plain
--   '2-to-1'    plain     keyed: `markread admin downgrade-layout` is under way
--   '1-moved'   plain     none: `markread admin move` has moved the cursors to another Redis
--   '2-moved'   keyed     plain: the same
--
-- Every script has the layout in KEYS[1], and in ARGV[1] the version that its server has read.

-- Created on first use: most readers have one hash, which is the same in both placements. The first
-- use checks the version, so no cursor is looked for or placed by another rule than the layout's.
local bucket_functions
local function buckets()
  if bucket_functions then return bucket_functions end
  local sub, format, floor = string.sub, string.format, math.floor
  local MODULUS = 2147483647 -- a prime, 2^31 - 1
  local layout = call('HMGET', KEYS[1], 'version', 'key')
  if layout[1] ~= ARGV[1] then error('LAYOUT the version has changed', 0) end

  -- One step of Park and Miller's generator (CACM, July 1993) from the ID's last 15 digits, which a
  -- float holds exactly throughout. `plain_hash` in placement.rs is its twin.
  local function plain_hash(recipient)
    return tonumber(sub(recipient, -15)) % MODULUS * 48271 % MODULUS
  end

  -- Three keyed rounds (ARCHITECTURE.md, "Placement"): the ID's digits in three limbs, then twice a
  -- product of the two halves. A float holds every value exactly: all are below 2^53. `keyed_hash`
  -- in placement.rs is its twin.
  local limbs
  local function keyed_hash(recipient)
    if not limbs then
      limbs = {}
      for n = 1, 8 do limbs[n] = tonumber(sub(layout[2] or '', 7 * n - 6, 7 * n), 16) end
      if #limbs < 8 then error('LAYOUT the key is not valid', 0) end
      for n = 5, 8 do limbs[n] = limbs[n] % 67108864 end
    end
    local low = tonumber(sub(recipient, -7))
    local middle = tonumber(sub(recipient, -13, -8)) or 0
    local high = tonumber(sub(recipient, 1, -14)) or 0
    local hash = (limbs[1] * low + limbs[2] * middle + limbs[3] * high + limbs[4]) % MODULUS
    for n = 5, 7, 2 do
      local left, right = floor(hash / 65536), hash % 65536
      hash = ((left + limbs[n]) * (right + limbs[n + 1]) + hash) % MODULUS
    end
    return hash
  end

  local plain = {field = 'buckets', left = 'buckets_left', key = '%s:%d', hash_of = plain_hash}
  local keyed =
    {field = 'keyed_buckets', left = 'keyed_buckets_left', key = '%s:k%d', hash_of = keyed_hash}
  local current, old = plain, nil
  if ARGV[1] == '2' or ARGV[1] == '2-moved' then current, old = keyed, plain end
  if ARGV[1] == '2-to-1' then old = keyed end

  local level_of, m
  local function level(count)
    if count ~= level_of then
      local _, exponent = math.frexp(count)
      level_of, m = count, 2 ^ (exponent - 1)
    end
    return m
  end

  -- Returns the key of a bucket. With `bucket_of` the twin of `append_bucket` in placement.rs, by
  -- which the server names the bucket of a single mark.
  local function key_of(placement, key, bucket)
    return format(placement.key, key, bucket)
  end

  local function bucket_of(placement, recipient, count)
    local low = level(count)
    local bucket = placement.hash_of(recipient) % (2 * low)
    if bucket >= count then bucket = bucket - low end
    return bucket
  end

  local function checked(count, least)
    if not count then return 0 end
    if not is_count(count) or tonumber(count) < least then
      error('CORRUPT the number of buckets is invalid', 0)
    end
    return tonumber(count)
  end

  -- Returns the number of a reader's buckets, 0 if there is one hash; and of those in the old
  -- placement, 0 unless cursors have to be moved out of it or out of the reader's own hash.
  local function counts_of(key)
    if not old then return checked(call('HGET', key, current.field), 2), 0 end
    local counts = call('HMGET', key, current.field, old.field)
    return checked(counts[1], 2), checked(counts[2], 1)
  end

  -- Returns the hash that a conversation belongs to, for a reader with `count` buckets.
  local function home_of(placement, key, recipient, count)
    if count == 0 then return key end
    return key_of(placement, key, bucket_of(placement, recipient, count))
  end

  bucket_functions = {
    current = current, old = old, level = level, key_of = key_of, bucket_of = bucket_of,
    counts_of = counts_of, home_of = home_of,
  }
  return bucket_functions
end
