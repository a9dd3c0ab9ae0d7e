-- What leaves Redis of an entry. Other programs may have added any: of hundreds of megabytes, and
-- with any fields.

-- Returns an entry as it is replied, and how many bytes it has: its ID, how often Redis counts that
-- it was delivered, and one of
--
--   'stored', payload, traceparent    each is absent if the entry does not have it
--   'too_large', bytes                these two together have more than max_bytes
--   'removed'                         the stream does not have it any more
local function shape(id, fields, count, max_bytes)
  if not fields then return {id, count, 'removed'}, 0 end
  local payload, traceparent = false, false
  for i = 1, #fields - 1, 2 do
    if fields[i] == 'payload' then
      payload = fields[i + 1]
    elseif fields[i] == 'traceparent' then
      traceparent = fields[i + 1]
    end
  end
  local bytes = (payload and #payload or 0) + (traceparent and #traceparent or 0)
  if bytes > max_bytes then return {id, count, 'too_large', bytes}, 0 end
  return {id, count, 'stored', payload, traceparent}, bytes
end
