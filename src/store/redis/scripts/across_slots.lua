-- Marks messages as read in several partitions of one node, for which `marks` does what
-- `single_marks.lua` does: marks of a cluster's node share script calls as those of one Redis do.
--
-- It declares no keys, since Redis refuses to declare those of several slots. Each command is
-- checked for itself all the same: a slot that the node does not have makes its marks rare, of
-- which nothing is written, and a missing key of a slot that is on its way does so too.
--
-- The clock is read once, and so is checked once that cursors may be written.
--
-- ARGV   of each partition: how many keys, and the keys; how many arguments, and the arguments
--
-- Reply: the replies of the partitions.

local replies, at = {}, 1
while ARGV[at] do
  local keys = tonumber(ARGV[at])
  local arguments = tonumber(ARGV[at + keys + 1])
  local first = at + keys + 2
  replies[#replies + 1] =
    marks({unpack(ARGV, at + 1, at + keys)}, {unpack(ARGV, first, first + arguments - 1)})
  at = first + arguments
end
return replies
