-- Calls a command of a group, and returns its reply, and whether the group exists.
local function try(...)
  local reply = redis.pcall(...)
  local failure = type(reply) == 'table' and reply.err
  if not failure then return reply, true end
  if string.find(failure, 'NOGROUP', 1, true) then return nil, false end
  error(reply)
end
