-- What one node was given of a quota and has used, and what it wants more.
-- KEYS: the quota of one period: a hash of given:used:when by node. ARGV: this node, what it was given, what it used, what
-- it wants, the limit, the key's life, how long after a loss nothing is sure, after what time a node is taken for gone.
-- Returns {given to this node in all, given to others, what others may still give back, whether it is sure}; a first
-- number below 0: nothing is known of this quota.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local since = redis.call('HGET', KEYS[1], 'since')
if not since then return {-1, 0, 0, 0} end
local all, others, loose = redis.call('HGETALL', KEYS[1]), 0, 0
for i = 1, #all, 2 do
  if all[i] ~= 'since' and all[i] ~= ARGV[1] then
    local given, used, at = string.match(all[i + 1], '^(%d+):(%d+):(%d+)$')
    others = others + tonumber(given)
    if now - tonumber(at) < tonumber(ARGV[8]) then loose = loose + math.max(0, tonumber(given) - tonumber(used)) end
  end
end
local given, more = tonumber(ARGV[2]), 0
local sure = now - tonumber(since) >= tonumber(ARGV[7])
if sure then more = math.max(0, math.min(tonumber(ARGV[4]), tonumber(ARGV[5]) - others - given)) end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f:%.0f:%.0f', given + more, tonumber(ARGV[3]), now))
redis.call('PEXPIRE', KEYS[1], ARGV[6])
return {given + more, others, loose, sure and 1 or 0}
