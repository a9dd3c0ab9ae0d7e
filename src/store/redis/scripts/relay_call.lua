-- The start of the scripts of the relay, and of its dead letters.

local call = redis.call

