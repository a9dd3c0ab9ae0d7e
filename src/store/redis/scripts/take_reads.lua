-- Takes reads from a watcher's read quota for what was read for it.
--
-- KEYS[1]       the watcher's read quota
-- ARGV[1..2]    reads served in a window, the window's ms
-- ARGV[3]       how many to take
--
--   reply                                        when
--   'read', used, reset_at_ms, {}                all were taken
--   'over_quota', reset_at_ms, ttl_ms            fewer were left: they were taken
--   'error', text                                an error, and nothing was taken

local limit, wanted = tonumber(ARGV[1]), tonumber(ARGV[3])
local used, reset_at_ms, is_old, taken = take(KEYS[1], ARGV[3], limit, tonumber(ARGV[2]))
if not used then return {'error', reset_at_ms} end
local served = math.max(0, math.min(wanted, limit - used))
settle(KEYS[1], used, taken, served, is_old)
if served < wanted then return {'over_quota', reset_at_ms, math.max(0, reset_at_ms - now_ms())} end
return {'read', used + served, reset_at_ms, {}}
