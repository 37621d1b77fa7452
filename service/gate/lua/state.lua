-- State of one pool: its clock, and the weighted tree of counters. Knows no queue.
-- `settings` stands above this text, KEYS[1] is "{pool}:node:". What is zero is absent.
--
-- node:N       packed  a node of the tree, "" is the root: weight, deficit as of its parent's round
--                      `as_of`, virtual, service, jobs, tokens, leased, seen, stands (its bucket) and its
--                      scores there, as hot:W and due:W; of its children: round, front, children,
--                      waiting_weight; credits (D2LPM) by worker. The root also holds the clock, the
--                      policy, the accounts, and `fleet`: alive, load, busy, streak, sent, woken, jobs
-- job:J        hash    `facts`, packed, never change; `state`, packed; `payload`
-- waiting:N    zset    children of N with jobs, by bucket: the round at which they turn positive, plus 1
-- due:W:N:B    zset    children of N in bucket B with jobs for W, by earliest deadline
-- hot:W:N:B    zset    those with a job whose context W holds in part: longest match first, ties by
--                      arrival; by VTC's counter under that policy. The children of a leaf are its
--                      jobs, in bucket 1
-- deadlines:W  zset    all jobs in the queue of W
-- held:W       set     block hashes in the prefix cache of W
-- watch:W:H    set     jobs of W that match all before block H; late:W blocks with more to look at
-- waiters:W:C  zset    when contexts are split: leaf and job for every job on context C in the queue of W
-- contexts:W   hash    jobs routed to W and not yet ended, by context
-- leases       zset    leased jobs by the time their lease ends
-- seen         zset    nodes by the time they were last in use
-- wake:W       list    a token: W should claim. reply:R list of answers for the API process R

-- Functions are fields of `gate`, because a closure costs by the locals that it captures.
local gate, nodes = {}, {}
local pool, call = string.sub(KEYS[1], 1, -6), redis.call
local zeros = { __index = {} }
for field in string.gmatch('weight deficit as_of virtual service jobs tokens leased seen stands round '
  .. 'front children waiting_weight skew last sequence epoch platform uncharged drained drain_rate '
  .. 'rated_at largest_cost', '%S+') do zeros.__index[field] = 0 end

-- Walks a path from the leaf up, without the root: `for node in gate.up, leaf do`.
function gate.up(leaf, node)
  if not node then return leaf end
  if node.parent.parent then return node.parent end
end

function gate.refills_owed(node)
  if node.deficit > 0 then return 0 end
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
  nodes[id], node.id = node, id
  if id ~= '' then
    local above, name = string.match(id, '^(.*)/([^/]*)$')
    node.name, node.parent = name or id, gate.load_node(above or '')
    if node.weight > 0 then gate.catch_up(node) end
  end
  return node
end

-- Writes back what was loaded, but for nodes that nobody made.
function gate.save()
  for id, node in pairs(nodes) do
    node.id, node.name, node.parent = nil, nil, nil
    if node.weight > 0 or id == '' then call('SET', pool .. 'node:' .. id, cmsgpack.pack(node)) end
  end
end

local root = gate.load_node('')
root.policy, root.fleet = root.policy or settings.policy, root.fleet or {}
local policy, fleet = root.policy, root.fleet
local gated = policy == 'dlpm'
function gate.rounds_owed(node) return gated and gate.refills_owed(node) or 0 end

-- Silences longer than a pause and steps of the clock do not count, so neither ends a lease.
function gate.tick()
  local time = call('TIME')
  local time_ms = time[1] * 1000 + math.floor(time[2] / 1000)
  local step = root.last == 0 and 0 or time_ms - root.last
  if step > settings.pause_ms or step < 0 then root.skew = root.skew + step end
  root.last = time_ms
  return time_ms - root.skew, time_ms
end
local now, time_ms = gate.tick()

-- Charges (a refund is negative) at all levels; the leaf has to be stood anew.
function gate.pay(leaf, cost)
  for node in gate.up, leaf do
    gate.catch_up(node)
    node.service = node.service + cost
    if gated then node.deficit = node.deficit - cost end
  end
  root.service = root.service + cost
end

function gate.see(leaf)
  for node in gate.up, leaf do
    if node.seen == 0 or now - node.seen >= math.floor(settings.tenant_idle_ms / 16) then
      node.seen = now
      call('ZADD', pool .. 'seen', now, node.id)
    end
  end
end

-- `payers` alternates leaves and costs, the leaf "" is the platform. The leaves have to be stood anew.
function gate.charge(payers, sign)
  for at = 1, #payers, 2 do
    local id, cost = payers[at], sign * payers[at + 1]
    if id == '' then
      root.platform = root.platform + cost
      root.service = root.service + cost
    elseif gate.load_node(id).weight > 0 then
      gate.pay(gate.load_node(id), cost)
    end
  end
end
