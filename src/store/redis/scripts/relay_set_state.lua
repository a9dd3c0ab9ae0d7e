-- Replaces the state of a webhook.
--
-- KEYS[1]       the state: a hash
-- ARGV          fields and values
--
-- Reply: 'OK'.

call('DEL', KEYS[1])
if #ARGV > 0 then call('HSET', KEYS[1], unpack(ARGV)) end
return 'OK'
