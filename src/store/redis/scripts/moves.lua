-- Splits of buckets, and moves of a reader's cursors from the old placement to the current one.
-- Each of them changes a bounded number of fields, and leaves every cursor in exactly one hash.

-- Cursors of a hash up to which it is read and split in one step. Only picked recipients, of which
-- many share a bucket, make a larger one.
local LARGE = 256

-- Created on first use: few marks need them.
local move_functions
local function moves()
  if move_functions then return move_functions end
  local in_buckets = buckets()
  local current, old, key_of = in_buckets.current, in_buckets.old, in_buckets.key_of

  -- Cursors that a bucket must have to be split, so that picked recipients that share a bucket do
  -- not create empty buckets without end.
  local SPLIT_MIN = 10
  -- Cursors that one step moves; for so many of them, one more bucket; and old buckets that it
  -- looks into.
  local MOVE_MAX, MOVED_PER_BUCKET, LOOK_MAX = 128, 16, 64

  local function without_sign(field)
    return (string.gsub(field, '^-', ''))
  end

  local function append(lists, name, ...)
    local list = lists[name]
    if not list then
      list = {}
      lists[name] = list
    end
    for n = 1, select('#', ...) do list[#list + 1] = select(n, ...) end
  end

  -- Raises an error unless the user may run a command on a hash, and Redis has it. It is called
  -- before the first write, since nothing is rolled back. From 8.0, Redis also wants as many
  -- arguments as HSET and HDEL have at least.
  local function check_may(command, hash)
    if not redis.acl_check_cmd(command, hash, '', '') then
      error('NOPERM the user has no permissions to run ' .. command .. ' on cursors', 0)
    end
  end

  -- Notes that a reader's own hash has cursors to be moved. Its buckets are created by the move.
  local function begin_move(key)
    call('HSET', key, current.field, 2, old.field, 1)
  end

  -- Plans the split of the next bucket in turn, or of the one hash into the first two buckets. The
  -- plan has the hash to split (`from`), the fields to remove from it (`left`), the fields and
  -- values of each new hash (`moved`) and the new bucket count. Whatever can fail is tried here,
  -- before the first write. Returns nil if nothing is split: a bucket with few cursors, or a hash
  -- with too many for one step. The one hash is then moved in many, if there is a placement to
  -- move to.
  local function plan_split(key, count)
    local from, first_new, new_count = key, 0, 2
    if count > 0 then
      from = key_of(current, key, count - in_buckets.level(count))
      first_new, new_count = count, count + 1
    end
    local size = call('HLEN', from)
    if size > 2 * LARGE then
      if count > 0 or not old then return nil end
      -- The first cursor is written to one of them: also while its slot moves, in a cluster.
      for bucket = 0, 1 do
        local into = key_of(current, key, bucket)
        call('HLEN', into)
        check_may('HSET', into)
      end
      check_may('HSET', key)
      return {begins = true, count = 2}
    end
    if count > 0 and size < 2 * SPLIT_MIN then return nil end
    local moved, left = {}, {}
    for bucket = first_new, new_count - 1 do
      local into = key_of(current, key, bucket)
      if call('EXISTS', into) == 1 then error('CORRUPT the new bucket exists already', 0) end
      check_may('HSET', into)
      moved[into] = {}
    end
    check_may('HDEL', from)
    check_may('HSET', key)
    local fields = call('HGETALL', from)
    for n = 1, #fields, 2 do
      local into = in_buckets.home_of(current, key, without_sign(fields[n]), new_count)
      if moved[into] then
        append(moved, into, fields[n], fields[n + 1])
        left[#left + 1] = fields[n]
      end
    end
    return {from = from, left = left, moved = moved, count = new_count}
  end

  local function write_split(key, plan)
    if plan.begins then return begin_move(key) end
    for into, values in pairs(plan.moved) do
      if #values > 0 then call('HSET', into, unpack(values)) end
    end
    if #plan.left > 0 then call('HDEL', plan.from, unpack(plan.left)) end
    call('HSET', key, current.field, plan.count)
  end

  -- Moves some cursors of a reader. Returns how many, and whether more are left.
  local function move(key)
    local count, old_count = in_buckets.counts_of(key)
    if old_count == 0 then return 0, false end
    local names = {current.field, old.field, current.left, old.left}
    local state = call('HMGET', key, unpack(names))
    local is_state, states = {}, 0
    for n, name in ipairs(names) do
      is_state[name] = true
      if state[n] then states = states + 1 end
    end
    local buckets_left = tonumber(state[4] or old_count)
    local is_new = count == 0
    if is_new then count = 2 end

    -- Reads what is moved: `values` by the hash it is moved to, `fields` by the hash it is in.
    local budget, values, fields = MOVE_MAX, {}, {}
    local function read(source, size)
      local found = {}
      if size > 2 * LARGE then
        -- It reads as many fields as it returns, however large the hash is. Cursors that are read
        -- are removed, so that the last ones are found too.
        found = call('HRANDFIELD', source, budget)
      else
        local all = call('HGETALL', source)
        for n = 1, #all, 2 do found[#found + 1] = all[n] end
      end
      local wanted, seen = {}, {}
      for _, field in ipairs(found) do
        local recipient = without_sign(field)
        if not is_state[field] and not seen[recipient] and #wanted < 2 * budget then
          seen[recipient] = true
          wanted[#wanted + 1], wanted[#wanted + 2] = recipient, '-' .. recipient
        end
      end
      if #wanted == 0 then return end
      local there = call('HMGET', source, unpack(wanted))
      for n, field in ipairs(wanted) do
        if there[n] then
          local home = in_buckets.home_of(current, key, without_sign(field), count)
          append(values, home, field, there[n])
          append(fields, source, field)
        end
      end
      budget = budget - #wanted / 2
    end
    local own = call('HLEN', key) - states
    if own > 0 then
      read(key, own)
      own = own - #(fields[key] or {})
    end
    local looked = 0
    while own == 0 and budget > 0 and buckets_left > 0 and looked < LOOK_MAX do
      local source = key_of(old, key, buckets_left - 1)
      local size = call('HLEN', source)
      if size > 0 then read(source, size) end
      if size > #(fields[source] or {}) then break end
      buckets_left, looked = buckets_left - 1, looked + 1
    end

    -- Types and permissions are checked before the first write, after which nothing fails.
    for home in pairs(values) do
      call('HLEN', home)
      check_may('HSET', home)
    end
    for source in pairs(fields) do check_may('HDEL', source) end
    check_may('HSET', key)
    check_may('HDEL', key)
    for home, list in pairs(values) do call('HSET', home, unpack(list)) end
    for source, list in pairs(fields) do call('HDEL', source, unpack(list)) end
    if is_new then call('HSET', key, current.field, count) end
    local is_done = own == 0 and buckets_left == 0
    if is_done then
      call('HDEL', key, old.field, old.left, current.left)
    else
      call('HSET', key, old.left, buckets_left)
    end
    local moved = MOVE_MAX - budget
    for _ = 1, math.floor(moved / MOVED_PER_BUCKET) do
      local plan = plan_split(key, count)
      if not plan then break end
      write_split(key, plan)
      count = plan.count
    end
    return moved, not is_done
  end

  move_functions = {
    plan_split = plan_split, write_split = write_split, begin_move = begin_move, move = move,
  }
  return move_functions
end
