-- Who is served next: every node stands among its siblings in the bucket of the round at which its
-- counter turns positive, with the best job below it. When no waiting sibling is positive the
-- parent's round moves on to the nearest bucket: a refill. Knows no job's content.

function gate.index(kind, queue, node, bucket)
  return pool .. kind .. ':' .. queue .. ':' .. node.id .. ':' .. bucket
end

function gate.best(kind, queue, node)
  local top = call('ZRANGE', gate.index(kind, queue, node, node.round + 1), 0, 0, 'WITHSCORES')
  return top[1], tonumber(top[2] or 0)
end

-- Stands a node in its parent's index by `hot` and `due`, or takes it out when they are nil.
function gate.put(node, queue, hot, due)
  local at = node.at[queue] or {}
  local hot_key = gate.index('hot', queue, node.parent, node.stands)
  local due_key = gate.index('due', queue, node.parent, node.stands)
  if not hot then
    if at.hot then call('ZREM', hot_key, node.name) end
    if at.due then call('ZREM', due_key, node.name) end
    node.at[queue] = nil
  else
    if hot ~= at.hot then call('ZADD', hot_key, string.format('%d', hot), node.name) end
    if due ~= at.due then call('ZADD', due_key, string.format('%d', due), node.name) end
    node.at[queue] = { hot = hot, due = due }
  end
end

-- A job that came can only improve what stands; else the best below is looked up.
function gate.place(node, queue, came)
  local at = came and node.at[queue]
  if at and policy ~= 'vtc' then
    return gate.put(node, queue, math.min(at.hot, came.hot), math.min(at.due, came.due))
  end
  local child, hot = gate.best('hot', queue, node)
  if not child then return gate.put(node, queue) end
  local _, due = gate.best('due', queue, node)
  gate.put(node, queue, policy == 'vtc' and node.virtual + 1 or hot, due)
end

function gate.move(node, stands)
  local parent, waiting = node.parent, pool .. 'waiting:' .. node.parent.id
  for queue in pairs(node.stands > 0 and fleet or {}) do gate.put(node, queue) end
  if (stands > 0) ~= (node.stands > 0) then
    parent.waiting_weight = parent.waiting_weight + (stands > 0 and node.weight or -node.weight)
  end
  if stands > 0 then call('ZADD', waiting, stands, node.name) else call('ZREM', waiting, node.name) end
  node.stands = stands
end

function gate.check_refill(parent)
  local nearest = call('ZRANGE', pool .. 'waiting:' .. parent.id, 0, 0, 'WITHSCORES')
  local round = tonumber(nearest[2] or 0) - 1
  if round > parent.round then parent.round = round end
end

-- Stands a node and its ancestors where their counters say. `where` is the queue that changed, true
-- for all of them, false when only counters did; `came` are the scores of a job that was added.
function gate.stand(node, where, came)
  local parent = node.parent
  if not parent then return end
  gate.catch_up(node)
  local stands = node.jobs > 0 and parent.round + 1 + gate.rounds_owed(node) or 0
  local moved = stands ~= node.stands
  if moved then gate.move(node, stands) end
  for queue in pairs(stands > 0 and fleet or {}) do
    if moved or where == true or where == queue then gate.place(node, queue, not moved and came) end
  end
  if moved and stands ~= parent.round + 1 then gate.check_refill(parent) end
  return gate.stand(parent, moved or where, not moved and stands == parent.round + 1 and came)
end

-- VTC: idleness is not banked. What moves between queues may still stand in its old one.
function gate.lift(node)
  local least = math.huge
  for queue in pairs(fleet) do
    local key = gate.index('hot', queue, node.parent, node.parent.round + 1)
    local first = call('ZRANGE', key, 0, 1, 'WITHSCORES')
    local other = first[1] == node.name and 4 or 2
    least = math.min(least, tonumber(first[other] or math.huge) - 1)
  end
  if least < math.huge then node.virtual = math.max(node.virtual, least) end
end

-- Counts jobs into a queue at all levels, or out of it; the leaf has to be stood anew.
function gate.count_queued(leaf, queue, jobs, tokens)
  for node in gate.up, leaf do
    if policy == 'vtc' and jobs > 0 and node.jobs == 0 then gate.lift(node) end
    node.jobs = node.jobs + jobs
    node.tokens = node.tokens + tokens
  end
  root.jobs = root.jobs + jobs
  root.tokens = root.tokens + tokens
  gate.of_fleet(queue).jobs = gate.of_fleet(queue).jobs + jobs
  fleet[queue].load = fleet[queue].load + tokens
end

-- The id of the job that the index puts first in a queue; `virtual` is VTC's way down.
function gate.first_job(kind, queue)
  local node = root
  while node do
    local leaf = node.holds_jobs
    local in_order = kind == 'virtual' and (leaf and 'due' or 'hot') or kind
    local child = gate.best(in_order, queue, node)
    if leaf then return string.sub(child, 13) end
    node = child and gate.load_node(node == root and child or node.id .. '/' .. child)
  end
end
