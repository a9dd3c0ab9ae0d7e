-- What the scripts share: it stands in front of each.
--
-- A script is isolated, but nothing rolls back. So each reads and validates everything before its
-- first write, and every command on a reader's own keys goes through pcall: one reader's error is not
-- its neighbours'. IDs are compared as text, since a Lua number is a float.

local MAX_ID = '9223372036854775807'

-- Redis's clock, asked once a script at most, and only where it is needed.
local clock_ms
local function now_ms()
  if not clock_ms then
    local time = redis.call('TIME')
    clock_ms = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return clock_ms
end

local function greater(a, b)
  if #a ~= #b then return #a > #b end
  return a > b
end

local function is_id(text)
  return string.find(text, '^[1-9]%d*$') and (#text < 19 or not greater(text, MAX_ID))
end

-- Whole and small enough for a float to hold exactly: a count of calls, ms since 1970. Canonical, as
-- INCR takes no other: it would fail where the mark is half done.
local function is_count(text)
  return #text <= 15 and (text == '0' or string.find(text, '^[1-9]%d*$'))
end

local function failed(reply)
  return type(reply) == 'table' and reply.err ~= nil
end

-- A whole number as text. Lua writes 14 digits as they are, and format, which is slower, all.
local function digits(number)
  if number < 1e14 then return tostring(number) end
  return string.format('%.0f', number)
end

-- What is known of a reader's window: there is none, there is one, or one that has no end.
local NONE, OPEN, ENDLESS = 0, 1, 2

-- A reader's quota, of marks or of reads: what was used, when it resets, which window there is; nil and
-- what is wrong. A window without end is to be given one.
local function read_quota(key, window_ms)
  local used = redis.pcall('GET', key)
  if not used then return 0, now_ms() + window_ms, NONE end
  if failed(used) then return nil, used.err end
  if not is_count(used) then return nil, 'CORRUPT the quota is no number' end
  local reset_at_ms = redis.pcall('PEXPIRETIME', key)
  if failed(reset_at_ms) then return nil, reset_at_ms.err end
  if reset_at_ms > 0 then return tonumber(used), reset_at_ms, OPEN end
  return tonumber(used), now_ms() + window_ms, ENDLESS
end

-- Takes one call of the quota: what is used then, or nil and what is wrong.
local function take(key, used, reset_at_ms, window)
  local reply
  if window == NONE then
    reply = redis.pcall('SET', key, '1', 'PXAT', digits(reset_at_ms))
  else
    reply = redis.pcall('INCR', key)
    if not failed(reply) and window == ENDLESS then
      reply = redis.pcall('PEXPIREAT', key, digits(reset_at_ms))
    end
  end
  if failed(reply) then return nil, reply.err end
  return used + 1
end

-- Nothing is left of the quota: for how many ms, or nil and what is wrong. From then on the window has
-- an end.
local function deny(key, reset_at_ms, window)
  if window == ENDLESS then
    local set = redis.pcall('PEXPIREAT', key, digits(reset_at_ms))
    if failed(set) then return nil, set.err end
  end
  return math.max(0, reset_at_ms - now_ms())
end

-- The reply of a reader of cursors for whom nothing is left.
local function over_quota(key, reset_at_ms, window)
  local left_ms, problem = deny(key, reset_at_ms, window)
  if not left_ms then return {'error', problem} end
  return {'over_quota', reset_at_ms, left_ms}
end

-- Where a reader's cursors are. Up to 64 conversations: in one hash, the reader's. From then on in
-- buckets, by linear hashing (Litwin, VLDB 1980): the reader's hash holds nothing but their number N,
-- and a conversation is in the bucket that the low bits of its hash name. With m the greatest power of
-- two up to N, those are the bits of 2m, or where that bucket is not there yet, of m.

local function hash(recipient)
  return tonumber(string.sub(redis.sha1hex(recipient), 1, 8), 16)
end

local function level(buckets)
  local _, exponent = math.frexp(buckets)
  return 2 ^ (exponent - 1)
end

local function bucket_key(key, bucket)
  return key .. ':' .. digits(bucket)
end

local function bucket_of(recipient, buckets)
  local m = level(buckets)
  local bucket = hash(recipient) % (2 * m)
  if bucket >= buckets then bucket = bucket - m end
  return bucket
end

-- The number of a reader's buckets; 0 where there is one hash.
local function count_buckets(key)
  local buckets = redis.pcall('HGET', key, 'buckets')
  if failed(buckets) then return nil, buckets.err end
  if not buckets then return 0 end
  if not is_count(buckets) or tonumber(buckets) < 2 then
    return nil, 'CORRUPT the number of buckets is none'
  end
  return tonumber(buckets)
end

local function read_message(key, recipient)
  local message = redis.pcall('HGET', key, recipient)
  if not message then return false end
  if failed(message) then return nil, message.err end
  if not is_id(message) then return nil, 'CORRUPT the cursor is no ID' end
  return message
end

-- A conversation's cursor: the message, false where it was never set, the hash that it belongs into, and
-- how many buckets there are; nil and what is wrong. It is looked for in the reader's hash first, where
-- most have it: to look there for buckets as well would cost a fifth of a mark.
local function read_cursor(key, recipient)
  local message, problem = read_message(key, recipient)
  if message then return message, key, 0 end
  if problem then return nil, problem end
  local buckets
  buckets, problem = count_buckets(key)
  if not buckets then return nil, problem end
  if buckets == 0 then return false, key, 0 end
  local bucket = bucket_key(key, bucket_of(recipient, buckets))
  message, problem = read_message(bucket, recipient)
  if problem then return nil, problem end
  return message, bucket, buckets
end

-- When a cursor advanced, of the hash that it is in: a text, or nil and what is wrong.
local function read_time(key, recipient)
  local read_at = redis.pcall('HGET', key, '-' .. recipient)
  if failed(read_at) then return nil, read_at.err end
  if not read_at or not is_count(read_at) then return nil, 'CORRUPT the cursor has no time' end
  return read_at
end

-- What one hash holds before it is split, and a bucket before another one is.
local CONVERSATIONS_MAX = 64

-- What a bucket holds at least that is split: whoever picks recipients so that they share a bucket does
-- not make buckets without end that hold nothing.
local SPLIT_MIN = 16

-- Values of one command. A Lua function takes some thousands, and a hash may hold more.
local VALUES_MAX = 1000

local function append(chunks, ...)
  local chunk = chunks[#chunks]
  if not chunk or #chunk >= VALUES_MAX then
    chunk = {}
    chunks[#chunks + 1] = chunk
  end
  for _, value in ipairs({...}) do chunk[#chunk + 1] = value end
end

-- Looks, before anything is written, at what a new conversation makes of the hash that it belongs
-- into, of a reader with so many buckets. Where that is full the next bucket in turn is split in two, or the one hash into the first
-- two: {from, buckets, moved, left}, `moved` being what is written where, `left` what goes from there,
-- in values of one command each. Nothing otherwise.
local function plan_split(key, full, there)
  local fields = redis.pcall('HLEN', full)
  if failed(fields) then return nil, fields.err end
  if fields < 2 * CONVERSATIONS_MAX then return nil end
  local from, buckets, first_new = key, 2, 0
  if there > 0 then
    from = bucket_key(key, there - level(there))
    buckets, first_new = there + 1, there
    fields = redis.pcall('HLEN', from)
    if failed(fields) then return nil, fields.err end
    if fields < 2 * SPLIT_MIN then return nil end
  end
  local moved, left = {}, {}
  for bucket = first_new, buckets - 1 do
    local into = bucket_key(key, bucket)
    if redis.call('EXISTS', into) == 1 then return nil, 'CORRUPT a bucket is there before its time' end
    moved[into] = {}
  end
  fields = redis.pcall('HGETALL', from)
  if failed(fields) then return nil, fields.err end
  for n = 1, #fields, 2 do
    local name = fields[n]
    local into = bucket_key(key, bucket_of(string.gsub(name, '^-', ''), buckets))
    if moved[into] then
      append(moved[into], name, fields[n + 1])
      append(left, name)
    end
  end
  return {from = from, buckets = buckets, moved = moved, left = left}
end

-- Splits, and says where this conversation belongs from now on. Nothing here can fail: all that it
-- writes to was looked at, and all that it writes is there.
local function do_split(key, split, recipient)
  for into, chunks in pairs(split.moved) do
    for _, chunk in ipairs(chunks) do redis.call('HSET', into, unpack(chunk)) end
  end
  for _, chunk in ipairs(split.left) do redis.call('HDEL', split.from, unpack(chunk)) end
  redis.call('HSET', key, 'buckets', digits(split.buckets))
  return bucket_key(key, bucket_of(recipient, split.buckets))
end
