-- One more seat, where there is one. After presence.lua.
-- KEYS[2]: a tenant's seats. ARGV from the fifth on: the cap; how long, in milliseconds, nothing is sure after seats
-- began to be known; whether the node may take one all the same; how many it holds already; the seat, then seats that
-- are free.
-- Returns {0 no | 1 taken | 2 ask again later, this node's number, when it was heard of, milliseconds until it is sure}.
local seats, cap, unsure_us, held = KEYS[2], tonumber(ARGV[5]), tonumber(ARGV[6]) * 1000, tonumber(ARGV[8])
arrive()

local function open()
  -- What this node has not told yet counts too.
  local mine = redis.call('ZCOUNT', seats, number, number)
  return redis.call('ZCARD', seats) - mine + math.max(mine, held)
end

-- Itself too: asked a second time, it must not stand in its own way.
for i = 9, #ARGV do redis.call('ZREM', seats, ARGV[i]) end
if open() >= cap then purge(seats) end
if open() >= cap then return {0, number, spelt(seen), 0} end
local age = now - since
if ARGV[7] == '0' and age >= 0 and age < unsure_us then
  return {2, number, spelt(seen), math.ceil((unsure_us - age) / 1000)}
end
redis.call('ZADD', seats, number, ARGV[9])
redis.call('PEXPIRE', seats, kept_ms)
return {1, number, spelt(seen), 0}
