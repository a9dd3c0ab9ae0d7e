-- Announces a process of the relay, and forgets those that are past their end.
--
-- KEYS[1]       the processes: a hash of IDs, each with JSON that begins with its end
-- ARGV[1..3]    the ID, its webhooks as JSON, for how many ms it is announced
--
-- Reply: for each process that is alive its ID and its JSON.

local time = call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local until_ms = now_ms + tonumber(ARGV[3])
local own = string.format('{"until_ms":%.0f,"webhooks":%s}', until_ms, ARGV[2])
call('HSET', KEYS[1], ARGV[1], own)
local processes, alive, last_ms = call('HGETALL', KEYS[1]), {}, until_ms
for i = 1, #processes, 2 do
  local end_ms = tonumber(string.match(processes[i + 1], '^{"until_ms":(%d+),') or 0)
  if end_ms > now_ms then
    alive[#alive + 1] = processes[i]
    alive[#alive + 1] = processes[i + 1]
    last_ms = math.max(last_ms, end_ms)
  else
    call('HDEL', KEYS[1], processes[i])
  end
end
call('PEXPIRE', KEYS[1], string.format('%.0f', last_ms - now_ms))
return alive
