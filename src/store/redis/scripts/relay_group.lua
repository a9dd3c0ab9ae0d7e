-- Consumer groups of a stream.

-- Returns what Redis tells of a group, in a time that grows with the number of the stream's groups;
-- or nil if there is no such group or stream.
local function find_group(stream, name)
  if call('EXISTS', stream) == 0 then return nil end
  for _, group in ipairs(call('XINFO', 'GROUPS', stream)) do
    local fields = to_table(group)
    if fields['name'] == name then return fields end
  end
end
