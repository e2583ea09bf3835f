-- How many seats of a tenant are taken. After presence.lua. KEYS[2]: its seats.
local open = 0
for _, filed in ipairs(present) do open = open + redis.call('ZCOUNT', KEYS[2], spelt(filed), spelt(filed)) end
return open
