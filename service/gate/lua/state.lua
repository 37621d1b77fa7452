-- State of one pool: its clock, and the weighted tree of counters. Knows no queue.
-- `settings` stands above this text, KEYS[1] is "{pool}:node:". What is zero is absent.
--
-- node:N       packed  a node of the tree, "" is the root: weight, deficit as of its parent's round
--                      `as_of`, virtual, service, jobs, tokens, leased, seen, stands (its bucket); of its
--                      children: round, children, waiting_weight; per queue W: jobs:W, hot:W and due:W as
--                      they stand in the parent's index, credit:W (D2LPM). The root also holds the clock,
--                      the policy, the accounts, and per worker alive:W, load:W, busy:W, streak:W, sent:W
-- job:J        hash    packed `facts` and `payload`
-- waiting:N    zset    children of N with jobs, by bucket: the round at which they turn positive, plus 1
-- hot:W:N:B    zset    children of N in bucket B with jobs for W: longest match first, ties by arrival
-- due:W:N:B    zset    the same by earliest deadline; the children of a leaf are its jobs, in bucket 1
-- deadlines:W  zset    all jobs in the queue of W
-- held:W       set     block hashes in the prefix cache of W
-- watch:W:H    set     jobs of W that match all before block H; late:W blocks with more to look at
-- waiters:W:C  zset    when contexts are split: leaf and job for every job on context C in the queue of W
-- contexts:W   hash    jobs routed to W and not yet ended, by context
-- leases       zset    leased jobs by the time their lease ends
-- seen         zset    nodes by the time they were last in use
-- wake:W       list    a token: W should claim. reply:R list of answers for the API process R

local pool, call = string.sub(KEYS[1], 1, -6), redis.call
local zero = { __index = function() return 0 end }
local nodes, dirty = {}, {}

local function write(node, field, value) node[field], dirty[node.id] = value, true end
local function add(node, field, amount) write(node, field, node[field] + amount) end

-- The nodes of a path from the leaf up, without the root.
local function lineage(leaf)
  local above = leaf
  return function()
    local node = above
    above = node.parent
    if above then return node end
  end
end

local function refills_owed(node)
  if node.deficit > 0 then return 0 end
  return math.floor(-node.deficit / (node.weight * settings.quantum)) + 1
end

-- Each round of the parent since `as_of` was a refill, which passes over a positive counter.
local function catch_up(node)
  local rounds = node.parent.round - node.as_of
  if rounds == 0 then return end
  write(node, 'as_of', node.parent.round)
  add(node, 'deficit', math.min(refills_owed(node), rounds) * node.weight * settings.quantum)
end

local function load_node(id)
  if nodes[id] then return nodes[id] end
  local packed = call('GET', pool .. 'node:' .. id)
  local node = setmetatable(packed and cmsgpack.unpack(packed) or {}, zero)
  nodes[id], node.id, node.parent = node, id, false
  if id ~= '' then
    local above, name = string.match(id, '^(.*)/([^/]*)$')
    node.name, node.parent = name or id, load_node(above or '')
    if node.weight > 0 then catch_up(node) end
  end
  return node
end

local function save()
  for id in pairs(dirty) do
    local packed = {}
    for field, value in pairs(nodes[id]) do packed[field] = value ~= 0 and value or nil end
    packed.id, packed.name, packed.parent = nil, nil, nil
    call('SET', pool .. 'node:' .. id, cmsgpack.pack(packed))
  end
end

local root = load_node('')
local policy = root.policy ~= 0 and root.policy or settings.policy
local gated = policy == 'dlpm'
local function rounds_owed(node) return gated and refills_owed(node) or 0 end

-- Silences longer than a pause and steps of the clock do not count, so neither ends a lease.
local function tick()
  local time = call('TIME')
  local time_ms = time[1] * 1000 + math.floor(time[2] / 1000)
  local step = root.last == 0 and 0 or time_ms - root.last
  if step > settings.pause_ms or step < 0 then add(root, 'skew', step) end
  write(root, 'last', time_ms)
  return time_ms - root.skew, time_ms
end
local now, time_ms = tick()

-- Charges (a refund is negative) at all levels; the leaf has to be stood anew.
local function pay(leaf, cost)
  for node in lineage(leaf) do
    catch_up(node)
    add(node, 'service', cost)
    if gated then add(node, 'deficit', -cost) end
  end
  add(root, 'service', cost)
end

local function see(leaf)
  for node in lineage(leaf) do
    if node.seen == 0 or now - node.seen >= math.floor(settings.tenant_idle_ms / 16) then
      write(node, 'seen', now)
      call('ZADD', pool .. 'seen', now, node.id)
    end
  end
end

-- Names that stand behind a prefix among a node's fields, in order.
local function named(prefix, node)
  local names = {}
  for field, value in pairs(node) do
    if value ~= 0 and string.sub(field, 1, #prefix) == prefix then
      names[#names + 1] = string.sub(field, #prefix + 1)
    end
  end
  table.sort(names)
  return names
end
local function workers() return named('alive:', root) end
local function queues() return named('jobs:', root) end
