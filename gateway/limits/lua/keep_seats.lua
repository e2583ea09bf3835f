-- A node's seats in one shard are held on to, or free.
-- KEYS: when this shard was first written to, then the seats of many tenants. ARGV: life, this node; then in MessagePack
-- for each of them the cap, the names of seats that are free, and of those that are held.
-- Returns {which of them, its seats of this node that are above the cap}, ... for those that have any; the newest are
-- above it first.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('SET', KEYS[1], string.format('%.0f', now)) end
local life, node, told, found = tonumber(ARGV[1]), ARGV[2], cmsgpack.unpack(ARGV[3]), {}
for i = 2, #KEYS do
  local cap, free, held = told[i - 1][1], told[i - 1][2], told[i - 1][3]
  for first = 1, #free, 1000 do
    redis.call('ZREM', KEYS[i], unpack(free, first, math.min(first + 999, #free)))
  end
  for first = 1, #held, 1000 do
    local members = {}
    for j = first, math.min(first + 999, #held) do
      members[#members + 1] = now + life
      members[#members + 1] = held[j]
    end
    redis.call('ZADD', KEYS[i], unpack(members))
  end
  local mine = {}
  if #held > 0 then
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
  if #mine > 0 then
    found[#found + 1] = i - 2
    found[#found + 1] = mine
  end
end
return found
