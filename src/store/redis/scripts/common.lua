-- What the scripts share: it stands in front of each.
--
-- A script is isolated, but nothing rolls back. So whatever can fail does so before anything is
-- written that would not be given back, and what belongs to one mark is guarded by `pcall`: one
-- reader's error is not its neighbours'. Errors are texts that begin with a code: Redis's, or
-- CORRUPT, which is ours. IDs are compared as text, since a Lua number is a float.
--
-- Most of Redis's time goes into this. What costs are commands, a tenth of a mark each; strings, as
-- Lua hashes every byte of each that is made, sent or replied; numbers that become text; and
-- functions, as they are made anew for each call of a script: so what is rare is apart, and made
-- where it is needed.

local call, try, find = redis.call, redis.pcall, string.find
local KEYS, ARGV, tonumber = KEYS, ARGV, tonumber

-- Redis's clock, asked once a script at most, and only where it is needed: ms since 1970, and the
-- same as text.
local clock_ms, clock
local function now_ms()
  if not clock_ms then
    local time = redis.call('TIME')
    clock_ms = time[1] * 1000 + math.floor(time[2] / 1000)
    clock = string.format('%d', clock_ms)
  end
  return clock_ms
end

-- Whole, canonical, and what a float holds exactly.
local function is_count(text)
  return text == '0' or #text <= 15 and string.find(text, '^[1-9]%d*$')
end

-- Takes calls of a reader's quota, of marks or of reads, before it is known which are served: what
-- was used before, when the window ends, whether Redis knows that end, and how many were taken; or
-- nil and what is wrong.
local function take(key, calls, limit, window_ms)
  local reply = try('INCRBY', key, calls)
  local used = tonumber(reply)
  if not used then
    -- A Redis that is full, or takes no writes, still tells whose quota is used up.
    used = try('GET', key)
    if type(used) ~= 'string' or not is_count(used) or tonumber(used) < limit then
      return nil, reply.err
    end
    calls, used = 0, tonumber(used)
  end
  used = used - calls
  if used < 0 or used >= 1e15 then
    redis.call('INCRBY', key, -calls)
    return nil, 'CORRUPT the quota is no count'
  end
  local reset_at_ms = call('PEXPIRETIME', key)
  if reset_at_ms >= 0 then return used, reset_at_ms, true, calls end
  return used, now_ms() + window_ms, false, calls
end

-- Gives back what was taken and not served, and gives a window its end.
local function settle(key, used, taken, served, reset_at_ms, has_end)
  local unserved = taken - served
  if unserved > 0 then
    if used + served == 0 and not has_end then
      -- It was not there.
      redis.call('DEL', key)
      return
    end
    redis.call('INCRBY', key, -unserved)
  end
  if not has_end then redis.call('PEXPIREAT', key, reset_at_ms) end
end

-- Reads for one of a reader's quota of reads, and returns what is replied: `read` adds to it. ARGV
-- begins with the reads served in a window, and the window's ms.
local function read_for_one(key, read)
  local limit = tonumber(ARGV[1])
  local used, reset_at_ms, has_end, taken = take(key, '1', limit, tonumber(ARGV[2]))
  if not used then return {'error', reset_at_ms} end
  local reply, served = {'read', used + 1, reset_at_ms}, 1
  if used >= limit then
    reply, served = {'over_quota', reset_at_ms, math.max(0, reset_at_ms - now_ms())}, 0
  else
    local done, problem = pcall(read, reply)
    if not done then reply, served = {'error', problem}, 0 end
  end
  settle(key, used, taken, served, reset_at_ms, has_end)
  return reply
end

-- Where a reader's cursors are. Up to 64 conversations: in one hash, the reader's. From then on in
-- buckets, by linear hashing (Litwin, VLDB 1980): the reader's hash holds nothing but their number
-- N, and a conversation is in the bucket that the low bits of its hash name. With m the greatest
-- power of two up to N, those are the bits of 2m, or where that bucket is not there yet, of m.
local made
local function buckets()
  if made then return made end
  local call, sub, format = redis.call, string.sub, string.format

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

  -- A step of Park and Miller's generator (CACM, July 1993) from the ID's last 15 digits: what a
  -- float holds exactly, all the way. `place` in reads.rs is its twin.
  local function hash_of(recipient)
    return tonumber(sub(recipient, -15)) % 2147483647 * 48271 % 2147483647
  end

  local function bucket_of(recipient, count)
    local m = level(count)
    local bucket = hash_of(recipient) % (2 * m)
    if bucket >= count then bucket = bucket - m end
    return bucket
  end

  -- How many a reader has; 0 where there is one hash.
  local function count_of(key)
    local count = call('HGET', key, 'buckets')
    if not count then return 0 end
    if not is_count(count) or tonumber(count) < 2 then
      error('CORRUPT the number of buckets is none', 0)
    end
    return tonumber(count)
  end

  -- The hash that a conversation belongs into, of a reader who has so many.
  local function home_of(key, recipient, count)
    if count == 0 then return key end
    return key_of(key, bucket_of(recipient, count))
  end

  made = {
    level = level, key_of = key_of, bucket_of = bucket_of, count_of = count_of, home_of = home_of,
  }
  return made
end

-- A conversation's cursor: the message, false where it was never set; the hash that it belongs
-- into; how many buckets there are, where that was looked at. It is looked for in the reader's hash
-- first, where most have it; but where it would be in so many buckets as there were once, if that
-- is known. It is in one hash only, so where it is found, there it is.
local function read_cursor(key, recipient, buckets_once)
  if buckets_once then
    local home = buckets().key_of(key, made.bucket_of(recipient, buckets_once))
    local message = call('HGET', home, recipient)
    if message then return message, home end
  end
  local message = call('HGET', key, recipient)
  if message then return message, key, 0 end
  local count = buckets().count_of(key)
  local home = made.home_of(key, recipient, count)
  return home ~= key and call('HGET', home, recipient), home, count
end

-- Since when a cursor stands where it does, as text.
local function read_time(message, home, recipient)
  if not string.find(message, '^[1-9]%d*$') or #message > 19
    or #message == 19 and message > '9223372036854775807' then
    error('CORRUPT the cursor is no ID', 0)
  end
  local read_at = redis.call('HGET', home, '-' .. recipient)
  if not read_at or not is_count(read_at) then error('CORRUPT the cursor has no time', 0) end
  return read_at
end
