-- Erases a reader's cursors, for operators: some buckets in each call, the last ones first. The
-- number of buckets shrinks with them, as it has grown: without the last bucket, its conversations
-- belong to the one that it was split from, and all others stay where they are. So whatever is left
-- between two calls is whole, and no bucket outlives the number.
--
-- KEYS[1]   the layout
-- KEYS[2]   the reader's cursors
-- ARGV[1]   the layout's version
--
-- Reply: an outcome; how many cursors were erased; and how many keys of another type than a hash,
-- in which there are none.
--
--   'more'      some are left
--   'done'      nothing is left
--   'damaged'   nothing was erased: which buckets there are is not known

local ERASE_MAX = 256
local key, cursors, damaged_keys = KEYS[2], 0, 0

local function unlink(hash)
  local size = redis.pcall('HLEN', hash)
  if type(size) == 'number' then
    cursors = cursors + size / 2
  elseif string.find(size.err, '^WRONGTYPE') then
    damaged_keys = damaged_keys + 1
  else
    error(size.err, 0)
  end
  call('UNLINK', hash)
end

-- Erases the last buckets of a placement. A move finds nothing in them, and goes on with the rest.
local function shrink(placement, count, least)
  local in_buckets, left = buckets(), math.max(least, count - ERASE_MAX)
  for n = left, count - 1 do unlink(in_buckets.key_of(placement, key, n)) end
  -- Redis refuses no write for lack of memory in a script that has written.
  call('HSET', key, placement.field, left)
end

local function erase()
  local in_buckets = buckets()
  local is_known, count, old_count = pcall(in_buckets.counts_of, key)
  if not is_known then
    local problem = count
    local is_damaged = string.find(problem, '^CORRUPT') or string.find(problem, '^WRONGTYPE')
    if is_damaged then return {'damaged', 0, 0} end
    error(problem, 0)
  end
  if old_count > ERASE_MAX / 2 then
    shrink(in_buckets.old, old_count, 1)
    return {'more', cursors, damaged_keys}
  end
  if count > ERASE_MAX / 2 then
    shrink(in_buckets.current, count, 2)
    return {'more', cursors, damaged_keys}
  end
  for n = 0, count - 1 do unlink(in_buckets.key_of(in_buckets.current, key, n)) end
  for n = 0, old_count - 1 do unlink(in_buckets.key_of(in_buckets.old, key, n)) end
  -- The numbers of buckets are no cursors.
  local names = {'buckets', 'keyed_buckets', 'buckets_left', 'keyed_buckets_left'}
  for _, number in ipairs(call('HMGET', key, unpack(names))) do
    if number then cursors = cursors - 0.5 end
  end
  unlink(key)
  return {'done', cursors, damaged_keys}
end

local done, reply = pcall(erase)
return done and reply or {err = reply}
