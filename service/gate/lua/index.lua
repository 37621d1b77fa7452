-- Who is served next: every node stands among its siblings in the bucket of the round at which its
-- counter turns positive, with the best job below it. When no waiting sibling is positive the
-- parent's round moves on to the nearest bucket: a refill. Knows no job's content.

local function index(kind, queue, node, bucket)
  return pool .. kind .. ':' .. queue .. ':' .. node.id .. ':' .. bucket
end

local function best(kind, queue, node)
  local top = call('ZRANGE', index(kind, queue, node, node.round + 1), 0, 0, 'WITHSCORES')
  return top[1], tonumber(top[2] or 0)
end

-- Stands a node's best in its parent's index as `score`, or takes it out when that is zero.
local function put(kind, node, queue, score)
  local key, field = index(kind, queue, node.parent, node.stands), kind .. ':' .. queue
  if score == node[field] then return end
  if score == 0 then call('ZREM', key, node.name) else call('ZADD', key, score, node.name) end
  write(node, field, score)
end

-- A job that came (with its scores) can only improve what stands; else the best is looked up.
local function place(node, queue, came)
  for _, kind in ipairs({ 'hot', 'due' }) do
    local standing = node[kind .. ':' .. queue]
    if policy == 'vtc' and kind == 'hot' then
      local child = best(kind, queue, node)
      put(kind, node, queue, child and node.virtual + 1 or 0)
    elseif came and standing ~= 0 then
      put(kind, node, queue, math.min(standing, came[kind]))
    else
      local _, score = best(kind, queue, node)
      put(kind, node, queue, score)
    end
  end
end

local function move(node, stands)
  local parent, waiting = node.parent, pool .. 'waiting:' .. node.parent.id
  for _, queue in ipairs(named('hot:', node)) do
    put('hot', node, queue, 0)
    put('due', node, queue, 0)
  end
  if (stands > 0) ~= (node.stands > 0) then
    add(parent, 'waiting_weight', stands > 0 and node.weight or -node.weight)
  end
  if stands > 0 then call('ZADD', waiting, stands, node.name) else call('ZREM', waiting, node.name) end
  write(node, 'stands', stands)
end

local function check_refill(parent)
  local nearest = call('ZRANGE', pool .. 'waiting:' .. parent.id, 0, 0, 'WITHSCORES')
  local round = tonumber(nearest[2] or 0) - 1
  if round > parent.round then write(parent, 'round', round) end
end

-- Stands a node and its ancestors where their counters say. `where` is the queue that changed, true
-- for all of them, false when only counters did; `came` are the scores of a job that was added.
local function stand(node, where, came)
  local parent = node.parent
  if not parent then return end
  catch_up(node)
  local stands = node.jobs > 0 and parent.round + 1 + rounds_owed(node) or 0
  local moved = stands ~= node.stands
  if moved then move(node, stands) end
  local all = moved or where == true
  if stands > 0 and where == true then
    for _, queue in ipairs(named('hot:', node)) do place(node, queue) end -- some may have no job left
  end
  for _, queue in ipairs(stands > 0 and (all and queues() or { where or nil }) or {}) do
    place(node, queue, not moved and came)
  end
  if moved and stands ~= parent.round + 1 then check_refill(parent) end
  return stand(parent, moved or where, not moved and stands == parent.round + 1 and came)
end

-- VTC: idleness is not banked. What moves between queues may still stand in its old one.
local function lift(node)
  local least = math.huge
  for _, queue in ipairs(queues()) do
    local key = index('hot', queue, node.parent, node.parent.round + 1)
    local first = call('ZRANGE', key, 0, 1, 'WITHSCORES')
    local other = first[1] == node.name and 4 or 2
    least = math.min(least, tonumber(first[other] or math.huge) - 1)
  end
  if least < math.huge then write(node, 'virtual', math.max(node.virtual, least)) end
end

-- Counts jobs into a queue at all levels, or out of it; the leaf has to be stood anew.
local function count_queued(leaf, queue, jobs, tokens)
  for node in lineage(leaf) do
    if policy == 'vtc' and jobs > 0 and node.jobs == 0 then lift(node) end
    add(node, 'jobs', jobs)
    add(node, 'tokens', tokens)
  end
  add(root, 'jobs', jobs)
  add(root, 'tokens', tokens)
  add(root, 'jobs:' .. queue, jobs)
  add(root, 'load:' .. queue, tokens)
end

-- The id of the job that the index puts first in a queue; `virtual` is VTC's way down.
local function first_job(kind, queue)
  local node = root
  while node do
    local leaf = node.holds_jobs == 1
    local in_order = kind == 'virtual' and (leaf and 'due' or 'hot') or kind
    local child = best(in_order, queue, node)
    if leaf then return string.sub(child, 13) end
    node = child and load_node(node == root and child or node.id .. '/' .. child)
  end
end
