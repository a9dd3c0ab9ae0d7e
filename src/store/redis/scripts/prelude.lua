-- The start of every script: shared locals.
--
-- A script is isolated, but nothing is rolled back. So whatever can fail does so before the first
-- write that would not be given back, and the work of one mark is guarded by `pcall`, so that one
-- reader's error does not affect the others. An error is a text that begins with a code: Redis's,
-- or CORRUPT, which is ours. IDs are compared as text, since a Lua number is a float.
--
-- What costs time in Redis: commands, a tenth of a mark each; strings, since Lua hashes every byte
-- of each one that is made, sent or replied; numbers that become text; and functions, which are
-- created anew in each call of a script. So rare paths are in functions of their own that are
-- created on first use.

local call = redis.call
local KEYS, ARGV, tonumber = KEYS, ARGV, tonumber

-- Returns whether a text is a canonical whole number that a float holds exactly.
local function is_count(text)
  return text == '0' or #text <= 15 and string.find(text, '^[1-9]%d*$')
end
