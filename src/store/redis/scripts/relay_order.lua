-- The order of entry IDs. They are compared as text, since a Lua number is a float.

local function is_less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

-- Returns whether an ID is before another one.
local function is_before(a, b)
  local a_ms, a_count = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_count = string.match(b, '^(%d+)-(%d+)$')
  if a_ms ~= b_ms then return is_less(a_ms, b_ms) end
  return is_less(a_count, b_count)
end
