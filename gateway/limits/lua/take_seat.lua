-- One more seat, where there is one.
-- KEYS: when this shard was first written to, a tenant's seats. ARGV: the seat, its life, the cap, how long after the
-- first write nothing is sure, whether the node may take one all the same, then seats that are free.
-- Returns {0 no | 1 taken | 2 ask again later, open now, milliseconds until it is sure}.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local since = tonumber(redis.call('GET', KEYS[1]))
if not since then
  redis.call('SET', KEYS[1], string.format('%.0f', now))
  since = now
end
for i = 6, #ARGV do redis.call('ZREM', KEYS[2], ARGV[i]) end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
local open = redis.call('ZCARD', KEYS[2])
if open >= tonumber(ARGV[3]) then return {0, open, 0} end
local unsure = tonumber(ARGV[4]) - (now - since)
if unsure > 0 and ARGV[5] == '0' then return {2, open, unsure} end
redis.call('ZADD', KEYS[2], now + tonumber(ARGV[2]), ARGV[1])
redis.call('PEXPIRE', KEYS[2], tonumber(ARGV[2]) * 2)
return {1, open + 1, 0}
