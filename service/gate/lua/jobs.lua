-- A job's moves: into and out of queues and leases, and what a worker's cache means for it.
-- A job watches the first block of its context that its worker does not hold, so an insert finds
-- whom it concerns; that a block was evicted is seen when the job comes first.

local MOST_TRIGGERED = 64 -- by one event
local room = 160 -- in one call
local assumed = {} -- blocks that the batch being claimed will compute
local expiring = {} -- reply lists whose time to live was set

function gate.load_job(id)
  local facts = call('HGET', pool .. 'job:' .. id, 'facts')
  return facts and cmsgpack.unpack(facts) or nil
end

function gate.save_job(job, payload)
  local key, facts = pool .. 'job:' .. job.id, cmsgpack.pack(job)
  if payload then call('HSET', key, 'facts', facts, 'payload', payload)
  else call('HSET', key, 'facts', facts) end
end

function gate.block_at(job, place)
  return string.sub(job.chain, (place - 1) * job.width + 1, place * job.width)
end

function gate.is_held(worker, block)
  return assumed[block] or call('SISMEMBER', pool .. 'held:' .. worker, block) == 1
end

-- Leaves are evicted first, so the held part of a chain is its front: binary search finds the end,
-- after the most frequent answers, all and nothing.
function gate.match(worker, job)
  local low, high = 0, job.blocks
  if high == 0 or gate.is_held(worker, gate.block_at(job, high)) then return high end
  if not gate.is_held(worker, gate.block_at(job, 1)) then return 0 end
  while low < high do
    local middle = math.ceil((low + high) / 2)
    if gate.is_held(worker, gate.block_at(job, middle)) then low = middle else high = middle - 1 end
  end
  return low
end

function gate.unwatch(job)
  if not job.watch then return end
  call('SREM', pool .. 'watch:' .. job.queue .. ':' .. job.watch, job.id)
  job.watch = nil
end

-- Puts a queued job in its leaf's order by what its worker holds now. Returns its scores.
function gate.rank(job)
  gate.unwatch(job)
  job.matched = gate.match(job.queue, job)
  if job.matched < job.blocks then
    job.watch = gate.block_at(job, job.matched + 1)
    call('SADD', pool .. 'watch:' .. job.queue .. ':' .. job.watch, job.id)
  end
  local came = { hot = job.sequence - job.matched * 2 ^ 36, due = job.due }
  local key = gate.index('hot', job.queue, gate.load_node(job.leaf), 1)
  call('ZADD', key, string.format('%d', came.hot), job.member)
  return came
end

function gate.refresh(job)
  local before = job.matched
  local came = gate.rank(job)
  if job.matched ~= before then
    gate.save_job(job)
    gate.stand(gate.load_node(job.leaf), job.queue, job.matched > before and came)
  end
end

-- Ranks anew the jobs that watched these blocks; when there are very many, the others at later calls.
function gate.trigger(worker, fresh)
  local keys = { 'EXISTS' }
  for at, block in ipairs(fresh) do keys[at + 1] = pool .. 'watch:' .. worker .. ':' .. block end
  local watched, at = #fresh > 0 and call(unpack(keys)) or 0, 2
  while watched > 0 and keys[at] do
    local most = math.min(room, MOST_TRIGGERED)
    local ids = most > 0 and call('SRANDMEMBER', keys[at], most) or {}
    local late = #ids == most and call('EXISTS', keys[at]) == 1
    if late then call('SADD', pool .. 'late:' .. worker, fresh[at - 1]) end
    if late or #ids > 0 then watched = watched - 1 end
    for _, id in ipairs(ids) do gate.refresh(gate.load_job(id)) end
    room, at = room - #ids, at + 1
  end
end

-- Takes cache events from ARGV: how many blocks were inserted, those, then the evicted ones.
function gate.hear(worker, first)
  local inserted = tonumber(ARGV[first])
  if #ARGV == first and call('EXISTS', pool .. 'late:' .. worker) == 0 then return end
  local fresh = call('SPOP', pool .. 'late:' .. worker, 8)
  local function each(verb, from, to)
    for at = from, to, 1000 do
      call(verb, pool .. 'held:' .. worker, unpack(ARGV, at, math.min(to, at + 999)))
    end
  end
  each('SADD', first + 1, first + inserted)
  each('SREM', first + inserted + 1, #ARGV)
  for at = first + 1, first + inserted do fresh[#fresh + 1] = ARGV[at] end
  for at = 1, #fresh, 1000 do gate.trigger(worker, { unpack(fresh, at, math.min(#fresh, at + 999)) }) end
end

-- The rest of this batch finds the job's context held.
function gate.assume(worker, job, matched)
  local fresh = {}
  for place = matched + 1, job.blocks do
    fresh[#fresh + 1] = gate.block_at(job, place)
    assumed[fresh[#fresh]] = true
  end
  gate.trigger(worker, fresh)
end

-- The job with the longest match in a worker's queue, once nothing evicted is believed held.
function gate.hottest(worker)
  for _ = 1, MOST_TRIGGERED do
    local id = gate.first_job('hot', worker)
    local job = id and gate.load_job(id)
    if not job or job.matched == 0 or gate.is_held(worker, gate.block_at(job, job.matched)) then return job end
    gate.refresh(job)
  end
  return gate.load_job(gate.first_job('hot', worker))
end

-- Wakes the queue's worker; when it is busy, an idle one too, which will steal.
function gate.wake(queue)
  local function push(name)
    if gate.of_fleet(name).woken == 0 then call('RPUSH', pool .. 'wake:' .. name, 1) end
    fleet[name].woken = 1
  end
  push(queue)
  for _, name in ipairs(fleet[queue].busy > 0 and gate.fleet_with('alive') or {}) do
    if fleet[name].busy == 0 then return push(name) end
  end
end

-- Counts a job's context at the worker it was routed to, or no longer.
function gate.expect(job, worker)
  local key = pool .. 'contexts:' .. (worker or job.expected or '')
  if worker then
    call('HINCRBY', key, job.context, 1)
  elseif job.expected and call('HINCRBY', key, job.context, -1) == 0 then
    call('HDEL', key, job.context)
  end
  job.expected = worker
end

-- D2LPM: of the workers with credit, the least loaded that holds or will hold the longest match.
function gate.route(job)
  local names = gate.fleet_with('alive')
  if #names < 2 then return names[1] or '' end
  local tenant, rounds, matches, choice = gate.load_node(job.tenant), math.huge, {}, nil
  local credits, longest = tenant.credits, 0
  for _, name in ipairs(names) do
    local credit = credits[name] or 0
    rounds = math.min(rounds, credit > 0 and 0 or math.floor(-credit / settings.worker_quantum) + 1)
    local waits = call('HEXISTS', pool .. 'contexts:' .. name, job.context) == 1
    matches[name] = waits and job.blocks or gate.match(name, job)
    longest = math.max(longest, matches[name])
  end
  tenant.credits = {}
  for _, name in ipairs(names) do
    tenant.credits[name] = (credits[name] or 0) + rounds * settings.worker_quantum
  end
  credits = tenant.credits
  for _, fits in ipairs({ longest, 0 }) do
    for _, name in ipairs(choice and {} or names) do
      local lighter = not choice or fleet[name].load < fleet[choice].load
      if credits[name] > 0 and matches[name] >= fits and lighter then choice = name end
    end
  end
  credits[choice] = credits[choice] - job.context_tokens - job.candidate_tokens
  gate.expect(job, choice)
  return choice
end

function gate.waiters(job) return pool .. 'waiters:' .. job.queue .. ':' .. job.context end

function gate.enqueue(job, payload)
  local leaf = gate.load_node(job.leaf)
  job.queue = gate.route(job)
  local due = string.format('%d', job.due)
  call('ZADD', gate.index('due', job.queue, leaf, 1), due, job.member)
  call('ZADD', pool .. 'deadlines:' .. job.queue, due, job.member)
  if settings.attribution == 'split' then call('ZADD', gate.waiters(job), 0, job.leaf .. '\0' .. job.id) end
  gate.count_queued(leaf, job.queue, 1, job.tokens)
  gate.stand(leaf, job.queue, gate.rank(job))
  gate.save_job(job, payload)
  gate.wake(job.queue)
end

-- Takes a job out of its queue; the leaf has to be stood anew.
function gate.unqueue(job)
  local leaf = gate.load_node(job.leaf)
  call('ZREM', gate.index('hot', job.queue, leaf, 1), job.member)
  call('ZREM', gate.index('due', job.queue, leaf, 1), job.member)
  call('ZREM', pool .. 'deadlines:' .. job.queue, job.member)
  if settings.attribution == 'split' then call('ZREM', gate.waiters(job), job.leaf .. '\0' .. job.id) end
  gate.unwatch(job)
  gate.count_queued(leaf, job.queue, -1, -job.tokens)
end

function gate.reply(job, outcome, result)
  local key = pool .. 'reply:' .. job.reply_to
  call('RPUSH', key, job.id .. '\0' .. outcome .. '\0' .. result)
  if not expiring[key] then call('PEXPIRE', key, settings.reply_ttl_ms) end
  expiring[key] = true
  gate.expect(job)
  call('DEL', pool .. 'job:' .. job.id)
end

function gate.expire(job)
  gate.unqueue(job)
  gate.stand(gate.load_node(job.leaf), job.queue)
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
        gate.unqueue(job)
        gate.expect(job)
        gate.enqueue(job)
        gate.stand(gate.load_node(job.leaf), queue)
      end
    end
  end
end

-- `payers` alternates leaves and costs; the leaf "" is the platform. `queue` has changed too.
function gate.settle_accounts(payers, queue, sign)
  local leaves = {}
  for at = 1, #payers, 2 do
    local id, cost = payers[at], sign * payers[at + 1]
    if id == '' then
      root.platform = root.platform + cost
      root.service = root.service + cost
    elseif gate.load_node(id).weight > 0 then
      leaves[#leaves + 1] = gate.load_node(id)
      gate.pay(leaves[#leaves], cost)
    end
  end
  for _, leaf in ipairs(leaves) do gate.stand(leaf, policy == 'vtc' or queue) end
end

-- Gives back `cost` of what was reserved, to the job's own leaf first.
function gate.refund(job, cost)
  local parts = {}
  for at = 1, #job.payers, 2 do
    local part = math.min(job.payers[at + 1], cost)
    cost = cost - part
    if part > 0 then parts[#parts + 1], parts[#parts + 2] = job.payers[at], part end
  end
  gate.settle_accounts(parts, false, -1)
end

function gate.count_leased(job, jobs)
  for node in gate.up, gate.load_node(job.leaf) do node.leased = node.leased + jobs end
  root.leased = root.leased + jobs
  gate.of_fleet(job.worker).busy = gate.of_fleet(job.worker).busy + jobs
  fleet[job.worker].load = fleet[job.worker].load + jobs * job.tokens
end

function gate.end_lease(job)
  gate.count_leased(job, -1)
  gate.see(gate.load_node(job.leaf))
  call('ZREM', pool .. 'leases', job.id)
  job.epoch, job.worker, job.payers = 0, nil, nil
end

-- A job whose worker is gone: queued anew at its old age, or answered when its attempts are used up.
function gate.release(job)
  gate.refund(job, job.charged)
  gate.end_lease(job)
  if job.cancelled then
    gate.expect(job)
    call('DEL', pool .. 'job:' .. job.id)
  elseif job.attempts >= settings.max_attempts then
    gate.reply(job, 'worker_lost', '')
    return 'lost'
  else
    gate.expect(job)
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
