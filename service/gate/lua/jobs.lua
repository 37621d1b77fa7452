-- A job's moves: into and out of queues and leases, until it is answered.

local expiring, listening = {}, {} -- reply streams whose time to live was set, or that were looked at

-- By the name that a job has in its indexes; `further` is one more of its fields.
function gate.load_job(member, further) return gate.find_job(string.sub(member, 13), further) end

-- What of a job never changes is unpacked only when it is asked for.
function gate.find_job(id, further)
  local row = call('HMGET', pool .. 'job:' .. id, 'state', 'facts', further or 'state')
  if not row[1] then return end
  local job = cmsgpack.unpack(row[1])
  return setmetatable(job, { __index = function(_, field)
    local facts = cmsgpack.unpack(row[2])
    if further then facts[further] = row[3] end
    setmetatable(job, { __index = facts })
    return facts[field]
  end })
end

function gate.save_job(job, ...)
  call('HSET', pool .. 'job:' .. job.id, 'state', cmsgpack.pack(job), ...)
end

function gate.drop_job(job)
  gate.expect(job, '')
  call('DEL', pool .. 'job:' .. job.id)
end

function gate.waiters(job) return pool .. 'waiters:' .. job.queue .. ':' .. job.context end

-- Counts a job at all levels and at its worker: `field` is `jobs` for a queue and `leased`.
function gate.count(job, field, name, change)
  local worker, tokens = gate.of_fleet(name), change * job.tokens
  for node in gate.to_root, gate.load_node(job.leaf) do
    node[field] = node[field] + change
    if field == 'jobs' then node.tokens = node.tokens + tokens end
  end
  worker[field], worker.load = worker[field] + change, worker.load + tokens
end

-- Further arguments are stored with the job.
function gate.enqueue(job, ...)
  local leaf = gate.load_node(job.leaf)
  job.queue = gate.route(job)
  if policy == 'vtc' then gate.lift(leaf) end
  call('ZADD', gate.index('due', job.queue, leaf, 1), job.due, job.member)
  call('ZADD', pool .. 'deadlines:' .. job.queue, job.due, job.member)
  gate.count(job, 'jobs', job.queue, 1)
  gate.stand(leaf, job.queue, gate.enter(job))
  gate.save_job(job, ...)
  gate.wake(job.queue)
end

-- Takes a job out of its queue; the leaf has to be stood anew.
function gate.unqueue(job)
  local leaf = gate.load_node(job.leaf)
  call('ZREM', gate.index('due', job.queue, leaf, 1), job.member)
  call('ZREM', pool .. 'deadlines:' .. job.queue, job.member)
  gate.exit(job)
  gate.count(job, 'jobs', job.queue, -1)
  return leaf
end

function gate.reply(job, outcome, result)
  local key = pool .. 'reply:' .. job.reply_to
  call('XADD', key, '*', 'reply', job.id .. '\0' .. outcome .. '\0' .. result)
  if not expiring[key] then call('PEXPIRE', key, settings.reply_ttl_ms) end
  expiring[key] = true
  gate.drop_job(job)
end

function gate.expire(job, outcome)
  gate.stand(gate.unqueue(job), job.queue)
  gate.reply(job, outcome or 'deadline', '')
end

-- Whether an API process has looked for answers lately.
function gate.listens(reply_to)
  if listening[reply_to] == nil then
    listening[reply_to] = call('EXISTS', pool .. 'listens:' .. reply_to) == 1
  end
  return listening[reply_to]
end

-- Answers queued jobs whose deadline has passed; no more than `most`, so that no call stalls Redis.
function gate.expire_overdue(most)
  local count = 0
  for _, queue in ipairs(gate.fleet_with('jobs')) do
    local key = pool .. 'deadlines:' .. queue
    local overdue = call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, most - count)
    for _, member in ipairs(overdue) do gate.expire(gate.load_job(member)) end
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
        local job = gate.load_job(member)
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
  local parts = {}
  for at, payer in ipairs(job.payers or { job.leaf, job.charged }) do
    parts[at] = payer
    if at % 2 == 0 then
      parts[at] = math.min(payer, cost)
      cost = cost - parts[at]
    end
  end
  gate.charge(parts, -1)
end

function gate.end_lease(job)
  gate.count(job, 'leased', job.worker, -1)
  gate.see(gate.load_node(job.leaf))
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
    local job = gate.find_job(id)
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
  call('UNLINK', pool .. 'held:' .. name, pool .. 'late:' .. name, pool .. 'wake:' .. name)
  local requeued = gate.release_worker(name)
  if worker.jobs == 0 and worker.leased == 0 then fleet[name] = nil end
  return requeued
end
