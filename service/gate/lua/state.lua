-- State of one pool: its clock, and the weighted tree of counters. Knows no queue.
-- `settings` stands above this text and are the caller's; KEYS[1] is "{pool}:node:". What is zero is absent.
--
-- node:N       packed  a node of the tree, "" is the root: weight, deficit as of its parent's round
--                      `as_of`, virtual, service, jobs, tokens, leased, stands (its bucket) and its
--                      `scores` there, as hot:W and due:W; of its children: round, front,
--                      waiting_weight; by worker: credits (D2LPM), streaks. Vanishes by itself when it was idle
--                      for long. The root stays; it also holds the clock, the policy, the accounts,
--                      `agreed` and `fleet`, by worker: alive, load, jobs, leased, streak, sent, instance
-- settings     packed  what the whole pool serves by; the root knows their digest, `agreed`
-- job:J        hash    `facts`, packed, never change; `state`, packed; `payload`
-- waiting:N    zset    children of N with jobs, by bucket: the round at which they turn positive, plus 1
-- due:W:N:B    zset    children of N in bucket B with jobs for W, by earliest deadline; of a leaf its
--                      jobs, in bucket 1
-- hot:W:N:B    zset    those below whom something is hot for W: hottest first, ties by arrival; by VTC's
--                      counter under that policy. The children of a leaf are its contexts, in bucket 1
-- deadlines:W  zset    all jobs in the queue of W
-- unranked     zset    jobs that waited when the policy was switched and are to be ranked by it; the
--                      root counts them
-- held:W       set     block hashes in the prefix cache of W
-- group:W:G    zset    G names a leaf and a context: its jobs in the queue of W, by arrival, behind a
--                      member '' whose score is -1 less the blocks of the context that W holds
-- watches:W:H  zset    groups of W that match all before block H; late:W blocks with more to look at
-- waiters:W:C  zset    when contexts are split: leaves with a group on context C in the queue of W
-- contexts:W   hash    jobs routed to W and not yet ended, by context
-- leases       zset    leased jobs by the time their lease ends
-- wake:W       list    a token: W should claim. reply:R stream of answers for the API process R
-- listens:R    string  while R looks for them: nobody is charged for jobs of one that no longer does

-- Functions are fields of `gate`, because a closure costs by the locals that it captures.
local gate, nodes, policy, gated = {}, {}, nil, nil
local pool, call = string.sub(KEYS[1], 1, -6), redis.call
local zeros = { __index = { weight = 0, deficit = 0, as_of = 0, virtual = 0, service = 0, jobs = 0,
  tokens = 0, leased = 0, stands = 0, round = 0, front = 0, waiting_weight = 0, skew = 0, resumed = 0,
  last = 0, unranked = 0, sequence = 0, epoch = 0, platform = 0, uncharged = 0, drained = 0, drain_rate = 0,
  rated_at = 0, largest_cost = 0, alive = 0, load = 0, streak = 0, sent = 0 } }

-- Walks a path from the leaf up, without the root: `for node in gate.up, leaf do`.
function gate.up(leaf, node)
  if not node then return leaf end
  return node.parent.parent and node.parent
end

-- Refills until the counter is positive.
function gate.rounds_owed(node)
  if not gated or node.deficit > 0 then return 0 end
  return math.floor(-node.deficit / (node.weight * settings.refill)) + 1
end

-- Each round of the parent since `as_of` was a refill, unless it went above one quantum.
function gate.catch_up(node)
  local rounds = node.parent.round - node.as_of
  if rounds == 0 then return end
  node.as_of = node.parent.round
  local refill = node.weight * settings.refill
  local most = math.max(0, math.floor((node.weight * settings.quantum - node.deficit) / refill))
  node.deficit = node.deficit + math.min(most, rounds) * refill
end

function gate.load_node(id)
  if nodes[id] then return nodes[id] end
  local packed = call('GET', pool .. 'node:' .. id)
  local node = setmetatable(packed and cmsgpack.unpack(packed) or {}, zeros)
  nodes[id], node.id, node.scores = node, id, node.scores or {}
  if id ~= '' then
    local above, name = string.match(id, '^(.*)/([^/]*)$')
    node.name, node.parent = name or id, gate.load_node(above or '')
    if node.weight > 0 then gate.catch_up(node) end
  end
  return node
end

-- Writes back what was loaded, but for nodes that nobody made. What is idle for so long that Redis
-- drops it owes one job at most: its siblings were refilled, and so was it, or nobody was served.
function gate.save()
  for id, node in pairs(nodes) do
    node.id, node.name, node.parent = nil, nil, nil
    local key, packed = pool .. 'node:' .. id, cmsgpack.pack(node)
    if id == '' or node.jobs + node.leased > 0 then call('SET', key, packed)
    elseif node.weight > 0 then call('SET', key, packed, 'PX', settings.tenant_idle_ms) end
  end
end

local root = gate.load_node('')
root.policy, root.fleet = root.policy or settings.policy, root.fleet or {}
local fleet, given = root.fleet, settings
for _, worker in pairs(fleet) do setmetatable(worker, zeros) end

-- Whoever calls first and workers that join bring settings; a caller that has others is served by those.
function gate.agree()
  settings, root.agreed = given, given.digest
  call('SET', pool .. 'settings', cmsgpack.pack(given))
end
if not root.agreed then gate.agree()
elseif root.agreed ~= given.digest then settings = cmsgpack.unpack(call('GET', pool .. 'settings')) end

policy, gated = root.policy, root.policy == 'dlpm'

-- Silences longer than a pause and steps of the clock count as 1 ms, so neither ends a lease.
local time = call('TIME')
local time_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local step = root.last == 0 and 0 or time_ms - root.last
if step > settings.pause_ms or step < 0 then
  root.resumed = root.last - root.skew
  root.skew = root.skew + step - 1 -- whoever speaks now does so after all who were heard before
end
root.last = time_ms
local now = time_ms - root.skew

-- What a job costs; nothing is free.
function gate.cost(extend_tokens, output_tokens)
  return math.max(1, settings.extend_weight * extend_tokens + settings.output_weight * output_tokens)
end

-- Charges (a refund is negative) at all levels and stands who paid anew, the first as `where` says.
-- `payers` alternates leaves and costs; the leaf "" is the platform.
function gate.charge(payers, sign, where)
  for at = 1, #payers, 2 do
    local leaf, cost = gate.load_node(payers[at]), sign * payers[at + 1]
    if leaf == root then root.platform = root.platform + cost end
    if leaf == root or leaf.weight > 0 then root.service = root.service + cost end
    if leaf.weight > 0 then
      for node in gate.up, leaf do
        gate.catch_up(node)
        node.service = node.service + cost
        if gated then node.deficit = node.deficit - cost end
      end
      gate.stand(leaf, at == 1 and where)
    end
  end
end
