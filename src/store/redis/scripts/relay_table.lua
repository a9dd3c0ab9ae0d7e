-- Makes a table of an array of names and values.
local function to_table(pairs)
  local fields = {}
  for i = 1, #pairs, 2 do fields[pairs[i]] = pairs[i + 1] end
  return fields
end
