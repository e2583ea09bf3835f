-- Lends tokens of accounts to one process: the twin of gateway/limits/lending.py, which says what is promised.
--
-- KEYS: accounts, one slot for all of them in a cluster. ARGV[1]: the process; ARGV[2]: what it asks of each of them, in
-- MessagePack: {{number, {{name, unit, per_us, capacity, held, want, credit, late, start}, ...}}, ...}. The answer is in
-- MessagePack too: {{{name, now, later, from_us, until_us, retry_us, level}, ...}, ...}.
--
-- An account is a MessagePack text: {b = {name = {parts, at_us, unit, per_us, capacity}},
-- n = {process = {seen_us, number, {name = {held, until_us}}, {promises, with moments}}}}. It expires when all of its
-- buckets are full again and all of its borrowers forgotten.
local NODE_US, CHUNK_US, LEAST_US, AHEAD_US = 30000000, 100000, 20000, 5000000
local floor, ceil, min, max, abs = math.floor, math.ceil, math.min, math.max, math.abs

local function clock_us()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local now_us, node = clock_us(), ARGV[1]

local function read(key)
  local kept = redis.call('GET', key)
  if kept then
    local good, account = pcall(cmsgpack.unpack, kept)
    if good and type(account) == 'table' and type(account.b) == 'table' and type(account.n) == 'table' then
      return account
    end
  end
  return {b = {}, n = {}}
end

local function come_back(bucket, full, unit, per_us, start)
  if not bucket then return min(full, start * unit) end
  local parts = bucket[1]
  if bucket[3] ~= unit then parts = floor(parts * unit / bucket[3]) end
  local passed = max(0, now_us - bucket[2])
  return min(full, parts + passed * per_us)
end

local function lend(account, loans, ask)
  local name, unit, per_us, capacity = ask[1], ask[2], ask[3], ask[4]
  local held, want, credit, late, start = ask[5], ask[6], ask[7], ask[8], ask[9]
  local others, busy = 0, 0
  for other, borrower in pairs(account.n) do
    local loan = other ~= node and borrower[3][name]
    if loan then
      others = others + loan[1]
      if loan[2] > now_us then busy = busy + 1 end
    end
  end
  local lent = others + (loans[name] and loans[name][1] or 0)
  local full = max(0, capacity - lent) * unit
  local parts = come_back(account.b[name], full, unit, per_us, start) + credit * unit
  if late > 0 then parts = max(min(parts, 0), parts - late * unit) end
  parts = min(parts, capacity * unit)
  local now, later, begins, ends, retry = 0, 0, 0, 0, 0
  if want > 0 then
    now = min(want, max(0, floor(parts / unit)))
    parts = parts - now * unit
    begins = max(0, ceil(-parts / per_us))
    if now == want then
      begins = 0
    elseif begins > AHEAD_US then
      retry, begins = begins - AHEAD_US, 0
    else
      local chunk, least = ceil(per_us * CHUNK_US / (unit * (busy + 1))), ceil(per_us * LEAST_US / unit)
      later = min(want - now, chunk, max(capacity - others - held - now, least))
      parts = parts - later * unit
      ends = max(0, ceil(-parts / per_us))
    end
  end
  account.b[name] = {parts, now_us, unit, per_us, capacity}
  loans[name] = {held + now + later, now_us + ends}
  return {name, now, later, now_us + begins, now_us + ends, now_us + retry, floor(parts / unit)}
end

local function exchange(account, number, asks)
  local mine = account.n[node]
  if mine and mine[2] == number then
    mine[1] = now_us
    return mine[4]
  end
  for name, borrower in pairs(account.n) do
    if abs(now_us - borrower[1]) > NODE_US then account.n[name] = nil end
  end
  local loans, said = mine and mine[3] or {}, {}
  for i, ask in ipairs(asks) do said[i] = lend(account, loans, ask) end
  account.n[node] = {now_us, number, loans, said}
  return said
end

local function lifetime_ms(account)
  local longest_us = NODE_US
  for name, bucket in pairs(account.b) do
    longest_us = max(longest_us, (bucket[5] * bucket[3] - bucket[1]) / bucket[4])
  end
  return string.format('%.0f', ceil(longest_us / 1000) + 1000)
end

local questions, answers = cmsgpack.unpack(ARGV[2]), {}
for i, key in ipairs(KEYS) do
  local question = questions[i]
  local account = read(key)
  local said = exchange(account, question[1], question[2])
  redis.call('SET', key, cmsgpack.pack(account), 'PX', lifetime_ms(account))
  local answer = {}
  for j, one in ipairs(said) do
    answer[j] = {
      one[1], one[2], one[3], max(0, one[4] - now_us), max(0, one[5] - now_us), max(0, one[6] - now_us), one[7],
    }
  end
  answers[i] = answer
end
return cmsgpack.pack(answers)
