-- What a node holds of the seats of many tenants. After presence.lua.
-- KEYS[2]: a hash of tenants that are above their caps, for nodes to look at what they hold of them; then the seats of
-- tenants. ARGV[5], in MessagePack for each of them: the cap, or false; names of seats that are free; then all that are
-- held, or false where no more is said than what is free; and those that are being taken.
-- Returns {this node's number, when it was heard of, [which of them, its seats of this node that are above the cap], ...};
-- the newest are above it first.
arrive()
local answer, above = {number, spelt(seen)}, KEYS[2]

local function each_thousand(names, call)
  for first = 1, #names, 1000 do call(first, math.min(first + 999, #names)) end
end

local function free(seats, names)
  each_thousand(names, function(first, last) redis.call('ZREM', seats, unpack(names, first, last)) end)
end

-- Of this node's seats these are all: what was lost is there again, and what is not held any more is free.
local function replace(seats, held, asked)
  local stays, strays = {}, {}
  for _, name in ipairs(held) do stays[name] = true end
  for _, name in ipairs(asked) do stays[name] = true end
  for _, name in ipairs(redis.call('ZRANGE', seats, number, number, 'BYSCORE')) do
    if not stays[name] then strays[#strays + 1] = name end
  end
  free(seats, strays)
  each_thousand(held, function(first, last)
    local members = {}
    for i = first, last do
      members[#members + 1] = number
      members[#members + 1] = held[i]
    end
    redis.call('ZADD', seats, unpack(members))
  end)
  if #held > 0 then redis.call('PEXPIRE', seats, kept_ms) end
end

local function look(seats, cap)
  local over = redis.call('ZCARD', seats) - cap
  if over > 0 then
    purge(seats)
    over = redis.call('ZCARD', seats) - cap
  end
  local mine, others = {}, false
  if over > 0 then
    local all = redis.call('ZRANGE', seats, 0, -1)
    -- Names begin with the moment they were taken at.
    table.sort(all, function(a, b) return a > b end)
    for i = 1, over do
      if string.find(all[i], '-' .. node .. '-', 1, true) then mine[#mine + 1] = all[i] else others = true end
    end
  end
  if others then
    redis.call('HSET', above, seats, spelt(now))
    redis.call('PEXPIRE', above, kept_ms)
  else
    redis.call('HDEL', above, seats)
  end
  return mine
end

for i, one in ipairs(cmsgpack.unpack(ARGV[5])) do
  local seats, cap, freed, held, asked = KEYS[i + 2], one[1], one[2], one[3], one[4]
  free(seats, freed)
  if held then
    replace(seats, held, asked)
    local mine = cap and look(seats, cap) or {}
    if #mine > 0 then
      answer[#answer + 1] = i - 1
      answer[#answer + 1] = mine
    end
  end
end
return answer
