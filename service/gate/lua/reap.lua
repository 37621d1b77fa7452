-- reap: the pool's heartbeat; ends expired leases, answers overdue jobs, forgets what is idle.
local counts = { requeued = 0, lost = 0 }

local function release_expired()
  for _, id in ipairs(call('ZRANGEBYSCORE', pool .. 'leases', '-inf', now, 'LIMIT', 0, 256)) do
    local fate = gate.release(gate.find_job(id))
    if fate then counts[fate] = counts[fate] + 1 end
  end
end

local function forget_idle_workers()
  for _, name in ipairs(gate.fleet_with('alive')) do
    if fleet[name].alive <= now - settings.worker_idle_ms then
      counts.requeued = counts.requeued + gate.forget_worker(name)
    end
  end
  for name, worker in pairs(fleet) do
    if worker.alive == 0 and worker.jobs == 0 and worker.leased == 0 then fleet[name] = nil end
  end
end

-- A debt is forgotten only when no sibling waits that could claim it, or coming back would clear it.
local function forget_idle_nodes()
  local limit = now - settings.tenant_idle_ms
  for _, id in ipairs(call('ZRANGEBYSCORE', pool .. 'seen', '-inf', limit, 'LIMIT', 0, 64)) do
    local node = gate.load_node(id)
    gate.catch_up(node)
    local waited_for = node.parent.jobs > 0 and not node.parent.holds_jobs
    local unowed = node.deficit > 0 or not waited_for
    if unowed and node.jobs == 0 and node.leased == 0 and node.children == 0 then
      call('DEL', pool .. 'node:' .. id)
      nodes[id] = nil
      call('ZREM', pool .. 'seen', id)
      node.parent.children = node.parent.children - 1
    else
      node.seen = now -- looked at again only after another idle span
      call('ZADD', pool .. 'seen', now, id)
    end
  end
end

-- While nobody waits, a low rate says only that little came.
local function measure_rate()
  local span = now - root.rated_at
  if span < 1000 then return end
  local rate = math.floor(1000 * root.drained / span)
  if root.jobs > 0 or rate > root.drain_rate then
    local before = root.drain_rate > 0 and root.drain_rate or rate
    root.drain_rate = math.floor((3 * before + rate) / 4)
  end
  root.drained = 0
  root.rated_at = now
end

release_expired()
forget_idle_workers()
gate.adopt(256)
local expired = gate.expire_overdue(256)
forget_idle_nodes()
measure_rate()
gate.save()
return { now, counts.requeued, counts.lost, expired }
