-- First cursors of conversations, and batches: several marks of one reader.

-- Created on first use: most marks are single and move a cursor that exists, and creating functions
-- costs each call.
local rare
local function first_cursor_and_batch(marks, values_per_mark)
  if rare then return rare end

  -- Calls a command with many values in pieces: a Lua function takes some thousands at most.
  local function in_pieces(command, key, values)
    for first = 1, #values, 1000 do
      call(command, key, unpack(values, first, math.min(first + 999, #values)))
    end
  end

  -- Starts a batch. Its cursors are read before the first mark, with one command for each hash, and
  -- written after the last. For each conversation it has the cursor (`messages`), its hash
  -- (`homes`) and whether this batch moved it (`advanced`); for each hash, the values to write
  -- (`unwritten`).
  local function begin_batch(key, first)
    local batch = {messages = {}, homes = {}, advanced = {}, unwritten = {}}
    local function read_ahead()
      local in_buckets, messages, homes = buckets(), batch.messages, batch.homes
      local count = in_buckets.count_of(key)
      batch.count = count
      -- Each bucket's key is built once: that costs as much as finding a cursor in it.
      local bucket_of, keys, recipients = in_buckets.bucket_of, {}, {}
      for arg = first, first + (marks - 1) * values_per_mark, values_per_mark do
        local recipient, home = ARGV[arg], key
        if count > 0 then
          local bucket = bucket_of(recipient, count)
          home = keys[bucket] or in_buckets.key_of(key, bucket)
          keys[bucket] = home
        end
        homes[recipient] = home
        local in_home = recipients[home]
        if in_home then in_home[#in_home + 1] = recipient else recipients[home] = {recipient} end
      end
      for home, in_home in pairs(recipients) do
        for n, message in ipairs(call('HMGET', home, unpack(in_home))) do
          messages[in_home[n]] = message
        end
      end
    end
    -- A cursor that cannot be read here is read again by its mark, which fails then.
    pcall(read_ahead)
    return batch
  end

  local function write_behind(batch)
    for home, values in pairs(batch.unwritten) do in_pieces('HSET', home, values) end
    batch.unwritten = {}
  end

  -- Plans the first cursor of a conversation. If its hash is full, either the next bucket in turn
  -- is split in two first, or the one hash into the first two buckets. The plan then has the hash
  -- to split (`from`), the fields to remove from it (`left`), the fields and values of each new
  -- hash (`moved`) and the new bucket count. Whatever can fail is tried here, before the first
  -- write.
  local function plan_first_cursor(batch, key, home, count)
    -- Cursors that the one hash, or a bucket, has before it is split. Redis searches a small hash
    -- field by field, so short buckets are faster; shorter ones would cost more memory.
    local HASH_MAX, BUCKET_MAX = 64, 32
    -- Cursors that a bucket must have to be split, so that picked recipients that share a bucket do
    -- not create empty buckets without end.
    local SPLIT_MIN = 10

    if batch then write_behind(batch) end
    if call('HLEN', home) < 2 * (count == 0 and HASH_MAX or BUCKET_MAX) then return nil end
    local in_buckets = buckets()
    local from, first_new, new_count = key, 0, 2
    if count > 0 then
      from = in_buckets.key_of(key, count - in_buckets.level(count))
      first_new, new_count = count, count + 1
      if call('HLEN', from) < 2 * SPLIT_MIN then return nil end
    end
    local moved, left = {}, {}
    for bucket = first_new, new_count - 1 do
      local into = in_buckets.key_of(key, bucket)
      if call('EXISTS', into) == 1 then error('CORRUPT the new bucket exists already', 0) end
      moved[into] = {}
    end
    local fields = call('HGETALL', from)
    for n = 1, #fields, 2 do
      local recipient = string.gsub(fields[n], '^-', '')
      local values = moved[in_buckets.home_of(key, recipient, new_count)]
      if values then
        table.insert(left, fields[n])
        table.insert(values, fields[n])
        table.insert(values, fields[n + 1])
      end
    end
    return {from = from, left = left, moved = moved, count = new_count}
  end

  -- Writes the first cursor of a conversation as planned, and returns its hash.
  local function write_first_cursor(plan, batch, key, home, recipient, message, clock)
    if plan then
      for into, values in pairs(plan.moved) do in_pieces('HSET', into, values) end
      in_pieces('HDEL', plan.from, plan.left)
      call('HSET', key, 'buckets', plan.count)
      home = buckets().home_of(key, recipient, plan.count)
      if batch then batch.messages, batch.homes = {}, {} end
    end
    call('HSET', home, recipient, message, '-' .. recipient, clock)
    return home
  end

  rare = {
    begin_batch = begin_batch, write_behind = write_behind,
    plan_first_cursor = plan_first_cursor, write_first_cursor = write_first_cursor,
  }
  return rare
end
