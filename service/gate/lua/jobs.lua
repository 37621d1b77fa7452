-- A job's moves: into and out of queues and leases, until it is answered.

local expiring = {} -- reply lists whose time to live was set

-- What of a job never changes is unpacked only when it is asked for.
local lazily = { __index = function(job, field)
  local facts = cmsgpack.unpack(call('HGET', pool .. 'job:' .. job.id, 'facts'))
  setmetatable(job, { __index = facts })
  return facts[field]
end }

function gate.load_job(id)
  local state = call('HGET', pool .. 'job:' .. id, 'state')
  if state then return setmetatable(cmsgpack.unpack(state), lazily) end
end

function gate.load_whole(id)
  local row = call('HMGET', pool .. 'job:' .. id, 'state', 'facts', 'payload')
  local facts = cmsgpack.unpack(row[2])
  facts.payload = row[3]
  return setmetatable(cmsgpack.unpack(row[1]), { __index = facts })
end

function gate.save_job(job, ...)
  call('HSET', pool .. 'job:' .. job.id, 'state', cmsgpack.pack(job), ...)
end

function gate.drop_job(job)
  gate.expect(job, '')
  call('DEL', pool .. 'job:' .. job.id)
end

function gate.waiters(job) return pool .. 'waiters:' .. job.queue .. ':' .. job.context end

-- Counts jobs into a queue at all levels, or out of it; the leaf has to be stood anew.
function gate.count_queued(leaf, queue, jobs, tokens)
  for node in gate.up, leaf do
    if policy == 'vtc' and jobs > 0 and node.jobs == 0 then gate.lift(node) end
    node.jobs, node.tokens = node.jobs + jobs, node.tokens + tokens
  end
  root.jobs, root.tokens = root.jobs + jobs, root.tokens + tokens
  local worker = gate.of_fleet(queue)
  worker.jobs, worker.load = worker.jobs + jobs, worker.load + tokens
end

-- Further arguments are stored with the job.
function gate.enqueue(job, ...)
  local leaf = gate.load_node(job.leaf)
  job.queue = gate.route(job)
  call('ZADD', gate.index('due', job.queue, leaf, 1), job.due, job.member)
  call('ZADD', pool .. 'deadlines:' .. job.queue, job.due, job.member)
  if settings.attribution == 'split' then call('ZADD', gate.waiters(job), 0, job.leaf .. '\0' .. job.id) end
  gate.count_queued(leaf, job.queue, 1, job.tokens)
  gate.stand(leaf, job.queue, gate.rank(job, gate.match(job.queue, job)))
  gate.save_job(job, ...)
  gate.wake(job.queue)
end

-- Takes a job out of its queue; the leaf has to be stood anew.
function gate.unqueue(job)
  local leaf = gate.load_node(job.leaf)
  call('ZREM', gate.index('due', job.queue, leaf, 1), job.member)
  call('ZREM', pool .. 'deadlines:' .. job.queue, job.member)
  if settings.attribution == 'split' then call('ZREM', gate.waiters(job), job.leaf .. '\0' .. job.id) end
  gate.unrank(job)
  gate.count_queued(leaf, job.queue, -1, -job.tokens)
  return leaf
end

function gate.reply(job, outcome, result)
  local key = pool .. 'reply:' .. job.reply_to
  call('RPUSH', key, job.id .. '\0' .. outcome .. '\0' .. result)
  if not expiring[key] then call('PEXPIRE', key, settings.reply_ttl_ms) end
  expiring[key] = true
  gate.drop_job(job)
end

function gate.expire(job)
  gate.stand(gate.unqueue(job), job.queue)
  gate.reply(job, 'deadline', '')
end

-- Answers queued jobs whose deadline has passed; bounded, so that no call stalls Redis.
function gate.expire_overdue()
  local count = 0
  for _, queue in ipairs(gate.fleet_with('jobs')) do
    local overdue = call('ZRANGEBYSCORE', pool .. 'deadlines:' .. queue, '-inf', now, 'LIMIT', 0, 256)
    for _, member in ipairs(overdue) do gate.expire(gate.load_job(string.sub(member, 13))) end
    count = count + #overdue
  end
  return count
end

-- Moves jobs from queues whose worker is gone to workers that live.
function gate.adopt(limit)
  if #gate.fleet_with('alive') == 0 then return end
  for _, queue in ipairs(gate.fleet_with('jobs')) do
    if fleet[queue].alive == 0 and limit > 0 then
      local orphans = call('ZRANGE', pool .. 'deadlines:' .. queue, 0, limit - 1)
      limit = limit - #orphans
      for _, member in ipairs(orphans) do
        local job = gate.load_job(string.sub(member, 13))
        local leaf = gate.unqueue(job)
        gate.expect(job, '')
        gate.enqueue(job)
        gate.stand(leaf, queue)
      end
    end
  end
end

-- Gives back `cost` of what was reserved, to the job's own leaf first.
function gate.refund(job, cost)
  local parts, payers = {}, job.payers or { job.leaf, job.charged }
  for at = 1, #payers, 2 do
    local part = math.min(payers[at + 1], cost)
    cost = cost - part
    if part > 0 then parts[#parts + 1], parts[#parts + 2] = payers[at], part end
  end
  gate.charge(parts, -1)
  for at = 1, #parts, 2 do
    if parts[at] ~= '' and gate.load_node(parts[at]).weight > 0 then
      gate.stand(gate.load_node(parts[at]), policy == 'vtc')
    end
  end
end

function gate.count_leased(job, leaf, jobs)
  for node in gate.up, leaf do node.leased = node.leased + jobs end
  root.leased = root.leased + jobs
  local worker = gate.of_fleet(job.worker)
  worker.busy, worker.load = worker.busy + jobs, worker.load + jobs * job.tokens
end

function gate.end_lease(job)
  local leaf = gate.load_node(job.leaf)
  gate.count_leased(job, leaf, -1)
  gate.see(leaf)
  call('ZREM', pool .. 'leases', job.id)
  job.epoch, job.worker, job.payers = 0, '', false
end

-- A job whose worker is gone: queued anew at its old age, or answered when its attempts are used up.
function gate.release(job)
  gate.refund(job, job.charged)
  gate.end_lease(job)
  if job.cancelled then
    gate.drop_job(job)
  elseif job.attempts >= settings.max_attempts then
    gate.reply(job, 'worker_lost', '')
    return 'lost'
  else
    gate.expect(job, '')
    gate.enqueue(job)
    return 'requeued'
  end
end

-- Ends the leases of a worker with an epoch above the last one it heard of; nil for all of them.
function gate.release_worker(worker, heard)
  local requeued = 0
  for _, id in ipairs(call('ZRANGE', pool .. 'leases', 0, -1)) do
    local job = gate.load_job(id)
    if job.worker == worker and job.epoch > (heard or 0) then
      if heard then job.attempts = job.attempts - 1 end -- in an answer that never arrived
      if gate.release(job) == 'requeued' then requeued = requeued + 1 end
    end
  end
  return requeued
end

function gate.forget_worker(name)
  local worker = gate.of_fleet(name)
  worker.alive, worker.streak, worker.sent, worker.woken = 0, 0, 0, 0
  call('UNLINK', pool .. 'held:' .. name, pool .. 'late:' .. name)
  local requeued = gate.release_worker(name)
  if worker.jobs == 0 and worker.busy == 0 then fleet[name] = nil end
  return requeued
end
