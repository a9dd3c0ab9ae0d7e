-- Checks a cursor, and returns as text when it last advanced.
local function read_time(message, home, recipient)
  if not string.find(message, '^[1-9]%d*$') or #message > 19
    or #message == 19 and message > '9223372036854775807' then
    error('CORRUPT the cursor is not an ID', 0)
  end
  local read_at = redis.call('HGET', home, '-' .. recipient)
  if not read_at or not is_count(read_at) then error('CORRUPT the cursor has no time', 0) end
  return read_at
end
