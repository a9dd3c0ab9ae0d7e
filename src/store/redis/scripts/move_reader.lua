-- Moves some of a reader's cursors from the old placement to the current one.
--
-- KEYS[1]   the layout
-- KEYS[2]   the reader's cursors
-- ARGV[1]   the layout's version
--
-- Reply: how many cursors were moved; 1 if more are left, else 0.

local function move()
  local moved, more = moves().move(KEYS[2])
  return {moved, more and 1 or 0}
end

local done, reply = pcall(move)
return done and reply or {err = reply}
