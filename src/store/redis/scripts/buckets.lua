-- Where a reader's cursors are. Up to 64 conversations they are in one hash, the reader's. From
-- then on they are in buckets, by linear hashing (Litwin, VLDB 1980): the reader's hash has only
-- their number N, and the low bits of a conversation's hash name its bucket. With m the greatest
-- power of two up to N, those are the bits of 2m; if that bucket does not exist yet, the bits of m.

-- Created on first use: most readers have one hash.
local bucket_functions
local function buckets()
  if bucket_functions then return bucket_functions end
  local sub, format = string.sub, string.format

  local level_of, m
  local function level(count)
    if count ~= level_of then
      local _, exponent = math.frexp(count)
      level_of, m = count, 2 ^ (exponent - 1)
    end
    return m
  end

  local function key_of(key, bucket)
    return format('%s:%d', key, bucket)
  end

  -- One step of Park and Miller's generator (CACM, July 1993) from the ID's last 15 digits, which a
  -- float holds exactly throughout. `place` in reads.rs is its twin.
  local function hash_of(recipient)
    return tonumber(sub(recipient, -15)) % 2147483647 * 48271 % 2147483647
  end

  local function bucket_of(recipient, count)
    local low = level(count)
    local bucket = hash_of(recipient) % (2 * low)
    if bucket >= count then bucket = bucket - low end
    return bucket
  end

  -- Returns the number of a reader's buckets; 0 if there is one hash.
  local function count_of(key)
    local count = call('HGET', key, 'buckets')
    if not count then return 0 end
    if not is_count(count) or tonumber(count) < 2 then
      error('CORRUPT the number of buckets is invalid', 0)
    end
    return tonumber(count)
  end

  -- Returns the hash that a conversation belongs to, for a reader with `count` buckets.
  local function home_of(key, recipient, count)
    if count == 0 then return key end
    return key_of(key, bucket_of(recipient, count))
  end

  bucket_functions = {
    level = level, key_of = key_of, bucket_of = bucket_of, count_of = count_of, home_of = home_of,
  }
  return bucket_functions
end
