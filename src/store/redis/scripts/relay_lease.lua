-- The lease of a feed, which is compared in the same step as what only its holder may do:
-- KEYS[1] is the lease, ARGV[1] the token.

-- Returns whether the lease has this token.
local function is_held()
  return call('GET', KEYS[1]) == ARGV[1]
end
