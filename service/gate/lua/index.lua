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

-- Stands a node in one of its parent's indexes; nil takes it out.
function gate.put(node, kind, queue, score)
  local at = kind .. ':' .. queue
  if score == node.scores[at] then return end
  local key = gate.index(kind, queue, node.parent, node.stands)
  if score then call('ZADD', key, score, node.name) else call('ZREM', key, node.name) end
  node.scores[at] = score
end

-- A job that came can only improve what stands; else the best below is looked up. Unless `anew`,
-- nothing below that was not hot can have become it.
function gate.place(node, queue, came, anew)
  local hot, due = node.scores['hot:' .. queue], node.scores['due:' .. queue]
  if came and policy ~= 'vtc' then
    due = math.min(due or came.due, came.due)
    if came.hot then hot = math.min(hot or came.hot, came.hot) end
  else
    due = select(2, gate.best('due', queue, node))
    if policy == 'vtc' then hot = due and node.virtual + 1
    elseif anew or hot then hot = select(2, gate.best('hot', queue, node)) end
  end
  gate.put(node, 'hot', queue, hot)
  gate.put(node, 'due', queue, due)
end

-- Takes a node to another bucket with all its scores; bucket 0 is none.
function gate.move(node, stands)
  local parent, before = node.parent, node.stands
  if parent.front == before or parent.front > stands then parent.front = 0 end
  local waiting = pool .. 'waiting:' .. parent.id
  if stands > 0 then call('ZADD', waiting, stands, node.name) else call('ZREM', waiting, node.name) end
  for at, score in pairs(node.scores) do
    local key = pool .. at .. ':' .. parent.id .. ':'
    call('ZREM', key .. before, node.name)
    if stands > 0 then call('ZADD', key .. stands, score, node.name) end
  end
  if stands == 0 then node.scores = {} end
  if before == 0 then parent.waiting_weight = parent.waiting_weight + node.weight end
  if stands == 0 then parent.waiting_weight = parent.waiting_weight - node.weight end
  node.stands = stands
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
    if where == true or where == queue then gate.place(node, queue, came, where == true) end
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
-- VTC's way down.
function gate.first_job(kind, queue)
  local node, inner = root, kind == 'virtual' and 'hot' or kind
  while not node.holds_jobs do
    local child = gate.best(inner, queue, node)
    if not child then return end
    node = gate.load_node(node == root and child or node.id .. '/' .. child)
  end
  local child = gate.best(kind == 'virtual' and 'due' or kind, queue, node)
  if kind ~= 'hot' then return gate.load_job(child, 'payload') end
  local group = gate.load_group(queue, node.id .. '\0' .. child)
  return gate.load_job(group.first, 'payload'), group
end
