-- Who is served next: every node stands among its siblings in the bucket of the round at which its
-- counter turns positive, with the best job below it. The nearest bucket is the front; serving
-- somebody of a later round is a refill for all. Knows no job's content.

function gate.index(kind, queue, node, bucket)
  return pool .. kind .. ':' .. queue .. ':' .. node.id .. ':' .. bucket
end

-- The nearest bucket in which a child waits, 0 if none does.
function gate.front(node)
  if node.holds_jobs then return '1' end
  if node.front == 0 then
    local first = call('ZRANGE', pool .. 'waiting:' .. node.id, 0, 0, 'WITHSCORES')
    node.front = tonumber(first[2] or 0)
  end
  return node.front
end

function gate.best(kind, queue, node)
  local top = call('ZRANGE', gate.index(kind, queue, node, gate.front(node)), 0, 0, 'WITHSCORES')
  if top[1] then return top[1], tonumber(top[2]) end
end

-- The scores of a node, `where` as in `stand`. A job that came can only improve them; else the best
-- below is looked up. Unless in all queues, nothing below that was not hot can have become it.
function gate.scores(node, where, came)
  local scores = {}
  for at, score in pairs(node.scores) do scores[at] = score end
  for queue in pairs(where == true and fleet or where and { [where] = true } or {}) do
    local hot, due = 'hot:' .. queue, 'due:' .. queue
    if came and policy ~= 'vtc' then
      scores[due] = math.min(scores[due] or came.due, came.due)
      if came.hot then scores[hot] = math.min(scores[hot] or came.hot, came.hot) end
    else
      scores[due] = select(2, gate.best('due', queue, node))
      if policy == 'vtc' then scores[hot] = scores[due] and node.virtual + 1
      elseif where == true or scores[hot] then scores[hot] = select(2, gate.best('hot', queue, node)) end
    end
  end
  return scores
end

-- Takes a node to another bucket of its parent; bucket 0 is none.
function gate.move(node, stands)
  local parent, waiting = node.parent, pool .. 'waiting:' .. node.parent.id
  if parent.front == node.stands or parent.front > stands then parent.front = 0 end
  if stands > 0 then call('ZADD', waiting, stands, node.name) else call('ZREM', waiting, node.name) end
  if node.stands == 0 then parent.waiting_weight = parent.waiting_weight + node.weight end
  if stands == 0 then parent.waiting_weight = parent.waiting_weight - node.weight end
end

-- Stands a node in a bucket's indexes with these scores.
function gate.score(node, stands, scores)
  local moved, above = stands ~= node.stands, ':' .. node.parent.id .. ':'
  for at in pairs(node.scores) do
    if moved or not scores[at] then call('ZREM', pool .. at .. above .. node.stands, node.name) end
  end
  for at, score in pairs(scores) do
    if moved or score ~= node.scores[at] then
      call('ZADD', pool .. at .. above .. stands, score, node.name)
    end
  end
  node.stands, node.scores = stands, scores
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
  if moved or where then
    gate.score(node, stands, stands > 0 and gate.scores(node, where, came) or {})
  end
  if parent.parent then
    local first = stands == gate.front(parent)
    return gate.stand(parent, moved or first and where, not moved and first and came)
  end
end

-- VTC: idleness is not banked. What moves between queues may still stand in its old one.
function gate.lift(leaf)
  for node in gate.up, leaf do
    local least = math.huge
    for queue in pairs(node.jobs == 0 and fleet or {}) do
      local key = gate.index('hot', queue, node.parent, gate.front(node.parent))
      local first = call('ZRANGE', key, 0, 1, 'WITHSCORES')
      least = math.min(least, tonumber(first[first[1] == node.name and 4 or 2] or math.huge) - 1)
    end
    if least < math.huge then node.virtual = math.max(node.virtual, least) end
  end
end

-- The refills after which a leaf is positive at every level.
function gate.refill(leaf)
  for node in gate.up, leaf do
    gate.catch_up(node)
    node.parent.round = node.parent.round + gate.rounds_owed(node)
  end
end

-- The job that the index puts first in a queue, and its group if it is the hottest. `virtual` is
-- VTC's way down; where a switch has ranked nothing by that yet, the earliest due goes.
function gate.first_job(kind, queue)
  local node, inner = root, kind == 'virtual' and 'hot' or kind
  while not node.holds_jobs do
    local child = gate.best(inner, queue, node) or kind == 'virtual' and gate.best('due', queue, node)
    if not child then return end
    node = gate.load_node(node == root and child or node.id .. '/' .. child)
  end
  local child = gate.best(kind == 'virtual' and 'due' or kind, queue, node)
  if not child then return end -- ranked by another policy
  if kind ~= 'hot' then return gate.load_job(child) end
  local group = gate.load_group(queue, node.id .. '\0' .. child)
  return gate.load_job(group.first), group
end
