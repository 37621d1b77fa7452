-- State of one pool: its clock, and the weighted tree of counters. Knows no queue.
-- `settings` stands above this text, KEYS[1] is "{pool}:node:". What is zero is absent.
--
-- node:N       packed  a node of the tree, "" is the root: weight, deficit as of its parent's round
--                      `as_of`, virtual, service, jobs, tokens, leased, seen, stands (its bucket); of its
--                      children: round, children, waiting_weight; `at` its scores in its parent's index
--                      by queue, credits (D2LPM) by worker. The root also holds the clock, the policy,
--                      the accounts, and `fleet`: alive, load, busy, streak, sent, woken, jobs by worker
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

-- Functions are fields of `gate`, because a closure costs by the locals that it captures.
local gate = {}
local pool, call = string.sub(KEYS[1], 1, -6), redis.call
local nodes, dirty = {}, {}
local NODE = { __index = { weight = 0, deficit = 0, as_of = 0, virtual = 0, service = 0, jobs = 0,
  tokens = 0, leased = 0, seen = 0, stands = 0, round = 0, children = 0, waiting_weight = 0,
  holds_jobs = 0, last = 0, skew = 0, sequence = 0, epoch = 0, platform = 0, uncharged = 0, drained = 0,
  drain_rate = 0, rated_at = 0, largest_cost = 0 } }
local WORKER = { __index = { alive = 0, load = 0, busy = 0, streak = 0, sent = 0, woken = 0, jobs = 0 } }
local JOB = { __index = { epoch = 0, attempts = 0 } }

function gate.write(node, field, value) node[field], dirty[node.id] = value, true end
function gate.add(node, field, amount) gate.write(node, field, node[field] + amount) end

-- The nodes of a path from the leaf up, without the root.
function gate.lineage(leaf)
  local above = leaf
  return function()
    local node = above
    above = node.parent
    if above then return node end
  end
end

function gate.refills_owed(node)
  if node.deficit > 0 then return 0 end
  return math.floor(-node.deficit / (node.weight * settings.quantum)) + 1
end

-- Each round of the parent since `as_of` was a refill, which passes over a positive counter.
function gate.catch_up(node)
  local rounds = node.parent.round - node.as_of
  if rounds == 0 then return end
  gate.write(node, 'as_of', node.parent.round)
  gate.add(node, 'deficit', math.min(gate.refills_owed(node), rounds) * node.weight * settings.quantum)
end

function gate.load_node(id)
  if nodes[id] then return nodes[id] end
  local packed = call('GET', pool .. 'node:' .. id)
  local node = setmetatable(packed and cmsgpack.unpack(packed) or { at = {}, credits = {} }, NODE)
  nodes[id], node.id, node.parent = node, id, false
  if id ~= '' then
    local above, name = string.match(id, '^(.*)/([^/]*)$')
    node.name, node.parent = name or id, gate.load_node(above or '')
    if node.weight > 0 then gate.catch_up(node) end
  end
  return node
end

function gate.save()
  for id in pairs(dirty) do
    local node = nodes[id]
    node.id, node.name, node.parent = nil, nil, nil
    call('SET', pool .. 'node:' .. id, cmsgpack.pack(node))
  end
end

local root = gate.load_node('')
local fleet = root.fleet or {}
root.fleet = fleet
for _, worker in pairs(fleet) do setmetatable(worker, WORKER) end
local policy = root.policy or settings.policy
local gated = policy == 'dlpm'
function gate.rounds_owed(node) return gated and gate.refills_owed(node) or 0 end

-- Silences longer than a pause and steps of the clock do not count, so neither ends a lease.
function gate.tick()
  local time = call('TIME')
  local time_ms = time[1] * 1000 + math.floor(time[2] / 1000)
  local step = root.last == 0 and 0 or time_ms - root.last
  if step > settings.pause_ms or step < 0 then gate.add(root, 'skew', step) end
  gate.write(root, 'last', time_ms)
  return time_ms - root.skew, time_ms
end
local now, time_ms = gate.tick()

-- Charges (a refund is negative) at all levels; the leaf has to be stood anew.
function gate.pay(leaf, cost)
  for node in gate.lineage(leaf) do
    gate.catch_up(node)
    gate.add(node, 'service', cost)
    if gated then gate.add(node, 'deficit', -cost) end
  end
  gate.add(root, 'service', cost)
end

function gate.see(leaf)
  for node in gate.lineage(leaf) do
    if node.seen == 0 or now - node.seen >= math.floor(settings.tenant_idle_ms / 16) then
      gate.write(node, 'seen', now)
      call('ZADD', pool .. 'seen', now, node.id)
    end
  end
end

-- A worker, or the queue of one that is gone; "" is the queue of jobs that came when there was none.
function gate.of_fleet(name)
  if not fleet[name] then fleet[name] = setmetatable({}, WORKER) end
  return fleet[name]
end

-- Names of those whose `field` is not zero, in order.
function gate.fleet_with(field)
  local names = {}
  for name, worker in pairs(fleet) do
    if worker[field] ~= 0 then names[#names + 1] = name end
  end
  table.sort(names)
  return names
end
