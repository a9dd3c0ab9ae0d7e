-- Erases a reader's cursors, for operators: some buckets in each call, and in the last call, in one
-- step, whatever is left, so that no bucket outlives the number of buckets.
--
-- KEYS[1]   the layout
-- KEYS[2]   the reader's cursors
-- ARGV[1]   the layout's version
-- ARGV[2]   how many buckets earlier calls have erased
--
-- Reply: how many cursors were erased; how many buckets this call and the earlier ones have erased,
-- or -1 if nothing is left.

-- Buckets that one call erases. The last one also looks for those that earlier calls have erased.
local ERASE_MAX = 256

local function erase()
  local key, done_before, in_buckets = KEYS[2], tonumber(ARGV[2]), buckets()
  local count, old_count = in_buckets.counts_of(key)
  local function bucket(n)
    if n < count then return in_buckets.key_of(in_buckets.current, key, n) end
    return in_buckets.key_of(in_buckets.old, key, n - count)
  end
  local cursors = 0
  local function unlink(hash)
    -- A key of another type has no cursors, and goes too.
    local size = redis.pcall('HLEN', hash)
    if size == 0 then return end
    if type(size) == 'number' then cursors = cursors + size / 2 end
    call('UNLINK', hash)
  end
  local all = count + old_count
  if all - done_before > ERASE_MAX then
    for n = done_before, done_before + ERASE_MAX - 1 do unlink(bucket(n)) end
    return {cursors, done_before + ERASE_MAX}
  end
  for n = 0, all - 1 do unlink(bucket(n)) end
  -- The numbers of buckets are no cursors.
  local names = {'buckets', 'keyed_buckets', 'buckets_left', 'keyed_buckets_left'}
  for _, number in ipairs(call('HMGET', key, unpack(names))) do
    if number then cursors = cursors - 0.5 end
  end
  unlink(key)
  return {cursors, -1}
end

local done, reply = pcall(erase)
return done and reply or {err = reply}
