-- Tries each command that moves.lua needs, so that one that is missing is found before a layout is
-- changed. It changes nothing.
--
-- KEYS[1]   the layout
-- KEYS[2]   where the cursors of a reader would be, of none
-- ARGV[1]   the layout's version
--
-- Reply: each command that cannot be run, followed by Redis's error.

local refused = {}
local function try(command, ...)
  local reply = redis.pcall(command, ...)
  if type(reply) == 'table' and reply.err then
    refused[#refused + 1], refused[#refused + 2] = command, reply.err
  end
  return reply
end

local key = KEYS[2]
try('HMGET', key, 'version')
try('HLEN', key)
try('HGETALL', key)
try('HRANDFIELD', key, 1)
try('EXISTS', key)
try('HDEL', key, 'version')
-- HSET has no form that changes nothing but to write the same again.
if try('HGET', KEYS[1], 'version') == ARGV[1] then try('HSET', KEYS[1], 'version', ARGV[1]) end
return refused
