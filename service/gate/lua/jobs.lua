-- A job's moves: into and out of queues and leases, until it is answered.

local waking, replied, listening = {}, {}, {} -- of this call
local fates = { requeued = 0, lost = 0, deadline = 0 }

-- By the name that a job has in its indexes.
function gate.load_job(member) return gate.find_job(string.sub(member, 13)) end

-- The job, unless it is held under another epoch than one that is given. What of it never changes is
-- looked up only when it is asked for.
function gate.find_job(id, epoch)
  local key = pool .. 'job:' .. id
  local state = call('HGET', key, 'state')
  local job = state and cmsgpack.unpack(state)
  if not job or epoch and job.epoch ~= tonumber(epoch) then return end
  return setmetatable(job, { __index = function(_, field)
    local facts = cmsgpack.unpack(call('HGET', key, 'facts'))
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
  local worker, tokens, node = gate.of_fleet(name), change * job.tokens, gate.load_node(job.leaf)
  while node do
    node[field] = node[field] + change
    if field == 'jobs' then
      node.tokens = node.tokens + tokens
      if node.jobs == 0 then node.streaks = nil end
    end
    node = node.parent
  end
  worker[field], worker.load = worker[field] + change, worker.load + tokens
end

-- Further arguments are stored with the job.
function gate.enqueue(job, ...)
  local leaf = gate.load_node(job.leaf)
  gate.expect(job, '')
  job.queue = gate.route(job)
  if policy == 'vtc' then gate.lift(leaf) end
  call('ZADD', gate.index('due', job.queue, leaf, 1), job.due, job.member)
  call('ZADD', pool .. 'deadlines:' .. job.queue, job.due, job.member)
  gate.count(job, 'jobs', job.queue, 1)
  gate.stand(leaf, job.queue, gate.enter(job))
  gate.save_job(job, ...)
  waking[job.queue] = true
end

-- Takes a job out of its queue; the leaf has to be stood anew.
function gate.unqueue(job)
  call('ZREM', gate.index('due', job.queue, gate.load_node(job.leaf), 1), job.member)
  call('ZREM', pool .. 'deadlines:' .. job.queue, job.member)
  gate.exit(job)
  gate.count(job, 'jobs', job.queue, -1)
end

function gate.withdraw(job)
  gate.unqueue(job)
  gate.stand(gate.load_node(job.leaf), job.queue)
end

function gate.reply(job, outcome, result)
  local key = pool .. 'reply:' .. job.reply_to
  call('XADD', key, '*', 'reply', job.id .. '\0' .. outcome .. '\0' .. result)
  replied[key] = true
  gate.drop_job(job)
end

function gate.expire(job, outcome)
  gate.withdraw(job)
  gate.reply(job, outcome or 'deadline', '')
  fates.deadline = fates.deadline + 1
end

-- Whether an API process has looked for answers lately.
function gate.listens(reply_to)
  listening[reply_to] = listening[reply_to] or call('EXISTS', pool .. 'listens:' .. reply_to)
  return listening[reply_to] == 1
end

-- Answers queued jobs whose deadline has passed; no more than `most`, so that no call stalls Redis.
function gate.expire_overdue(most)
  for _, queue in ipairs(gate.fleet_with('jobs')) do
    local key, room = pool .. 'deadlines:' .. queue, most - fates.deadline
    local overdue = call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, room)
    for _, member in ipairs(overdue) do gate.expire(gate.load_job(member)) end
  end
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
        gate.withdraw(job)
        gate.enqueue(job)
      end
    end
  end
end

-- Gives back `cost` of what was reserved, to the job's own leaf first.
function gate.refund(job, cost)
  local parts = {}
  for at = 2, #job.payers, 2 do
    local part = math.min(job.payers[at], cost)
    parts[at - 1], parts[at], cost = job.payers[at - 1], part, cost - part
  end
  gate.charge(parts, -1)
end

function gate.end_lease(job)
  gate.count(job, 'leased', job.worker, -1)
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
    fates.lost = fates.lost + 1
  else
    gate.enqueue(job)
    fates.requeued = fates.requeued + 1
  end
end

-- Ends the leases of a worker with an epoch above the last one it heard of; nil for all of them.
function gate.release_worker(worker, heard)
  for _, id in ipairs(call('ZRANGE', pool .. 'leases', 0, -1)) do
    local job = gate.find_job(id)
    if job.worker == worker and job.epoch > (heard or 0) then
      if heard then job.attempts = job.attempts - 1 end -- in an answer that never arrived
      gate.release(job)
    end
  end
end

function gate.forget_worker(name)
  local worker = gate.of_fleet(name)
  worker.alive, worker.streak, worker.sent, awake = 0, 0, 0, nil
  call('UNLINK', pool .. 'held:' .. name, pool .. 'late:' .. name, pool .. 'wake:' .. name)
  gate.release_worker(name)
end

-- What every call ends with.
function gate.finish()
  for queue in pairs(waking) do gate.wake(queue) end
  for key in pairs(replied) do call('PEXPIRE', key, settings.reply_ttl_ms) end
  for name, worker in pairs(fleet) do
    if worker.alive == 0 and worker.jobs == 0 and worker.leased == 0 then fleet[name] = nil end
  end
  gate.save()
end
