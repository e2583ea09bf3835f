-- What a database holds of a quota. KEYS: as in tell_quota. ARGV: whether nodes may know more, the key's life, then node,
-- given and used of each that is known.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if ARGV[1] == '1' or redis.call('HEXISTS', KEYS[1], 'since') == 0 then
  redis.call('HSET', KEYS[1], 'since', ARGV[1] == '1' and string.format('%.0f', now) or '0')
end
for i = 3, #ARGV, 3 do
  local there = redis.call('HGET', KEYS[1], ARGV[i])
  if not there or tonumber(string.match(there, '^%d+')) < tonumber(ARGV[i + 1]) then
    redis.call('HSET', KEYS[1], ARGV[i], string.format('%.0f:%.0f:0', tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])))
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
