-- Who is there, in one shard: how every script about seats begins.
-- KEYS[1]: a hash with a field for each node, which has the number that its seats are filed under and when it was last
-- heard of, and 'since': from when on seats are known. ARGV: this node; how long one lasts that is not heard of, and how
-- long keys are kept, in milliseconds; when this node knows that it was heard of. Moments are microseconds.
-- A seat counts as long as its node is there: it is a member of a sorted set, with that number as its score. Who comes
-- back, or comes to data that is older than what it knows of, gets another number, and none of its seats counts until it
-- tells them again.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local here, node, life_us, kept_ms, known = KEYS[1], ARGV[1], tonumber(ARGV[2]) * 1000, ARGV[3], tonumber(ARGV[4])
local since, number, seen, present, gone = nil, nil, now, {}, {}

local function spelt(moment) return string.format('%.0f', moment) end

local told = redis.call('HGETALL', here)
for i = 1, #told, 2 do
  local filed, heard = string.match(told[i + 1], '^(%d+) (%d+)$')
  if told[i] == 'since' then
    since = tonumber(told[i + 1])
  elseif not filed or math.abs(now - tonumber(heard)) > life_us then
    gone[#gone + 1] = told[i]
  elseif told[i] ~= 'node:' .. node then
    present[#present + 1] = tonumber(filed)
  elseif tonumber(heard) >= known then
    present[#present + 1] = tonumber(filed)
    number, seen = filed, tonumber(heard)
  else
    -- Newer words than these were lost, perhaps other nodes' too.
    since = nil
  end
end

-- From now on this node is there. Where nobody was, seats are known from now on.
local function arrive()
  if #present == 0 or not since then
    since = now
    redis.call('HSET', here, 'since', spelt(now))
  end
  if not number then
    local filed = now
    for _, other in ipairs(present) do filed = math.max(filed, other + 1) end
    present[#present + 1] = filed
    number = spelt(filed)
  end
  -- A clock that was put back a little must not look like words that were lost.
  seen = math.max(seen, now)
  redis.call('HSET', here, 'node:' .. node, number .. ' ' .. spelt(seen))
  redis.call('PEXPIRE', here, kept_ms)
end

-- Of these seats, keep those of nodes that are there.
local function purge(seats)
  table.sort(present)
  local from = '-inf'
  for _, filed in ipairs(present) do
    redis.call('ZREMRANGEBYSCORE', seats, from, '(' .. spelt(filed))
    from = '(' .. spelt(filed)
  end
  redis.call('ZREMRANGEBYSCORE', seats, from, '+inf')
end

