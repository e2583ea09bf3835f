-- A node's seats in one shard are held on to, or free.
-- KEYS: when this shard was first written to, then the seats of many tenants. ARGV: life, this node; then for each of
-- them the cap, how many are free, how many are held, and their names.
-- Returns for each those of this node that are above the cap; the newest are above it first.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('SET', KEYS[1], string.format('%.0f', now)) end
local life, node, at, found = tonumber(ARGV[1]), ARGV[2], 3, {}
for i = 2, #KEYS do
  local cap, free, held = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  at = at + 3
  for first = at, at + free - 1, 1000 do
    redis.call('ZREM', KEYS[i], unpack(ARGV, first, math.min(first + 999, at + free - 1)))
  end
  at = at + free
  for first = at, at + held - 1, 1000 do
    local members = {}
    for j = first, math.min(first + 999, at + held - 1) do
      members[#members + 1] = now + life
      members[#members + 1] = ARGV[j]
    end
    redis.call('ZADD', KEYS[i], unpack(members))
  end
  at = at + held
  local mine = {}
  if held > 0 then
    redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now)
    redis.call('PEXPIRE', KEYS[i], life * 2)
    local over = redis.call('ZCARD', KEYS[i]) - cap
    if over > 0 then
      local all = redis.call('ZRANGE', KEYS[i], 0, -1)
      table.sort(all, function(a, b) return a > b end)
      for j = 1, over do
        if string.find(all[j], node, 1, true) then mine[#mine + 1] = all[j] end
      end
    end
  end
  found[#found + 1] = mine
end
return found
