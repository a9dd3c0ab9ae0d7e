-- Runs `read` for one of a reader's read quota and returns the reply, to which `read` appends its
-- result.
-- ARGV[2..3] are the reads served in a window and the window's ms.
--
--   reply                                        when
--   'read', used, reset_at_ms, <by read>         the read was served
--   'over_quota', reset_at_ms, ttl_ms            the quota is used up, and nothing was read
--   'error', text                                an error, and nothing was taken
local function read_for_one(key, read)
  local limit = tonumber(ARGV[2])
  local used, reset_at_ms, is_old, taken = take(key, '1', limit, tonumber(ARGV[3]))
  if not used then return {'error', reset_at_ms} end
  local reply, served = {'read', used + 1, reset_at_ms}, 1
  if used >= limit then
    reply, served = {'over_quota', reset_at_ms, math.max(0, reset_at_ms - now_ms())}, 0
  else
    local done, problem = pcall(read, reply)
    if not done then reply, served = {'error', problem}, 0 end
  end
  settle(key, used, taken, served, is_old)
  return reply
end
