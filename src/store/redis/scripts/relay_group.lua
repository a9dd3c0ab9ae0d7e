-- Consumer groups of a stream.

-- Makes a table of an array of names and values.
local function to_table(pairs)
  local fields = {}
  for i = 1, #pairs, 2 do fields[pairs[i]] = pairs[i + 1] end
  return fields
end

-- Returns what Redis tells of a group, or nil if there is no such group or stream.
local function find_group(stream, name)
  if call('EXISTS', stream) == 0 then return nil end
  for _, group in ipairs(call('XINFO', 'GROUPS', stream)) do
    local fields = to_table(group)
    if fields['name'] == name then return fields end
  end
end
