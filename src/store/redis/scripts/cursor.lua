-- A conversation's cursor: field `<recipient>` has the message, field `-<recipient>` the time in ms
-- since 1970 when it last advanced.

-- Returns the message, or false if the cursor was never set; the hash that the cursor belongs to;
-- and the bucket counts, if they were read. Tries the hinted bucket, then the reader's own hash,
-- then the counted bucket, then that of the old placement. A cursor lives in exactly one hash, so a
-- hit is right even with a stale hint.
local function read_cursor(key, recipient, hint)
  if hint then
    local in_buckets = buckets()
    local home = in_buckets.home_of(in_buckets.current, key, recipient, hint)
    local message = call('HGET', home, recipient)
    if message then return message, home end
  end
  local message = call('HGET', key, recipient)
  if message then return message, key end
  local in_buckets = buckets()
  local count, old_count = in_buckets.counts_of(key)
  local home = in_buckets.home_of(in_buckets.current, key, recipient, count)
  message = home ~= key and call('HGET', home, recipient)
  if not message and old_count > 0 then
    local old_home = in_buckets.home_of(in_buckets.old, key, recipient, old_count)
    message = call('HGET', old_home, recipient)
    if message then home = old_home end
  end
  return message, home, count, old_count
end
