-- A node is there. After presence.lua. KEYS[2]: a hash of tenants that are above their caps, with when that was found.
-- Returns {its number, when it was heard of, keys of the seats of those tenants, ...}.
arrive()
for _, field in ipairs(gone) do redis.call('HDEL', here, field) end
local answer, found = {number, spelt(seen)}, redis.call('HGETALL', KEYS[2])
for i = 1, #found, 2 do
  if math.abs(now - tonumber(found[i + 1])) <= life_us then
    answer[#answer + 1] = found[i]
  else
    redis.call('HDEL', KEYS[2], found[i])
  end
end
return answer
