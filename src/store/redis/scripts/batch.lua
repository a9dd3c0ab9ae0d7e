-- First cursors of conversations, moves, and batches: several marks of one reader.

-- Created on first use: most marks are single and move a cursor that exists, and creating functions
-- costs each call.
local rare, has_moved, move_problem
local function first_cursor_and_batch(marks, values_per_mark)
  if rare then return rare end

  -- Moves some cursors of a reader, once in a script, and returns the counts after it. If the move
  -- fails, nothing is moved, and what is there is still found: the mark goes on, and the problem is
  -- in the reply.
  local function move_some(key, count, old_count)
    if old_count == 0 or has_moved and count > 0 then return count, old_count end
    if has_moved then
      call('HSET', key, buckets().current.field, 2)
    else
      has_moved = true
      local done, problem = pcall(moves().move, key)
      if not done then move_problem = problem end
    end
    return buckets().counts_of(key)
  end

  -- Starts a batch. Its cursors are read before the first mark, with one command for each hash, and
  -- written after the last. For each conversation it has the cursor (`messages`), its hash
  -- (`homes`) and whether this batch moved it (`advanced`); for each hash, the values to write
  -- (`unwritten`).
  local function begin_batch(key, first)
    local batch = {messages = {}, homes = {}, advanced = {}, unwritten = {}}
    local function read_ahead()
      local in_buckets, messages, homes = buckets(), batch.messages, batch.homes
      local current = in_buckets.current
      local count, old_count = move_some(key, in_buckets.counts_of(key))
      -- While cursors are being moved, each mark looks in both placements.
      if old_count > 0 then return end
      batch.count = count
      -- Each bucket's key is built once: that costs as much as finding a cursor in it.
      local bucket_of, keys, recipients = in_buckets.bucket_of, {}, {}
      for arg = first, first + (marks - 1) * values_per_mark, values_per_mark do
        local recipient, home = ARGV[arg], key
        if count > 0 then
          local bucket = bucket_of(current, recipient, count)
          home = keys[bucket] or in_buckets.key_of(current, key, bucket)
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
    for home, values in pairs(batch.unwritten) do
      -- In pieces: a Lua function takes some thousands of values at most.
      for first = 1, #values, 1000 do
        call('HSET', home, unpack(values, first, math.min(first + 999, #values)))
      end
    end
    batch.unwritten = {}
  end

  -- Plans the first cursor of a conversation. If its hash is full, the next bucket in turn is split
  -- in two first, or the one hash into the first two buckets. Whatever can fail is tried here,
  -- before the first write.
  local function plan_first_cursor(batch, key, home, count)
    -- Cursors that the one hash, or a bucket, has before it is split. Redis searches a small hash
    -- field by field, so short buckets are faster; shorter ones would cost more memory.
    local HASH_MAX, BUCKET_MAX = 64, 32

    if batch then write_behind(batch) end
    if call('HLEN', home) < 2 * (count == 0 and HASH_MAX or BUCKET_MAX) then return nil end
    return moves().plan_split(key, count)
  end

  -- Writes the first cursor of a conversation as planned, and returns its hash.
  local function write_first_cursor(plan, batch, key, home, recipient, message, clock)
    if plan then
      moves().write_split(key, plan)
      local in_buckets = buckets()
      home = in_buckets.home_of(in_buckets.current, key, recipient, plan.count)
      if batch then batch.messages, batch.homes = {}, {} end
    end
    call('HSET', home, recipient, message, '-' .. recipient, clock)
    return home
  end

  rare = {
    move_some = move_some, begin_batch = begin_batch, write_behind = write_behind,
    plan_first_cursor = plan_first_cursor, write_first_cursor = write_first_cursor,
  }
  return rare
end
