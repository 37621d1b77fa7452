-- A job's moves: into and out of queues and leases, and what a worker's cache means for it.
-- A job watches the first block of its context that its worker does not hold, so an insert finds
-- whom it concerns; that a block was evicted is seen when the job comes first.

local MOST_TRIGGERED = 64
local assumed = {} -- blocks that the batch being claimed will compute
local expiring = {} -- reply lists whose time to live was set

local function load_job(id)
  local facts = call('HGET', pool .. 'job:' .. id, 'facts')
  return facts and setmetatable(cmsgpack.unpack(facts), zero) or nil
end

local function save_job(job) call('HSET', pool .. 'job:' .. job.id, 'facts', cmsgpack.pack(job)) end

local function block_at(job, place)
  return string.sub(job.chain, (place - 1) * job.width + 1, place * job.width)
end

local function is_held(worker, block)
  return assumed[block] or call('SISMEMBER', pool .. 'held:' .. worker, block) == 1
end

-- Leaves are evicted first, so the held part of a chain is its front: binary search finds the end.
local function match(worker, job)
  local low, high = 0, job.blocks
  while low < high do
    local middle = math.ceil((low + high) / 2)
    if is_held(worker, block_at(job, middle)) then low = middle else high = middle - 1 end
  end
  return low
end

local function unwatch(job)
  if job.watch == 0 then return end
  call('SREM', pool .. 'watch:' .. job.queue .. ':' .. job.watch, job.id)
  job.watch = 0
end

-- Puts a queued job in its leaf's order by what its worker holds now. Returns its scores.
local function rank(job)
  unwatch(job)
  job.matched = match(job.queue, job)
  if job.matched < job.blocks then
    job.watch = block_at(job, job.matched + 1)
    call('SADD', pool .. 'watch:' .. job.queue .. ':' .. job.watch, job.id)
  end
  local came = { hot = job.sequence - job.matched * 2 ^ 36, due = job.due }
  call('ZADD', index('hot', job.queue, load_node(job.leaf), 1), came.hot, job.member)
  return came
end

local function refresh(job)
  local before = job.matched
  rank(job)
  if job.matched ~= before then
    save_job(job)
    stand(load_node(job.leaf), job.queue)
  end
end

-- Ranks anew the jobs that watched these blocks; of very many, the others at a later claim.
local function trigger(worker, fresh)
  local keys = { 'EXISTS' }
  for at, block in ipairs(fresh) do keys[at + 1] = pool .. 'watch:' .. worker .. ':' .. block end
  if #fresh == 0 or call(unpack(keys)) == 0 then return end
  for at, block in ipairs(fresh) do
    local ids = call('SRANDMEMBER', keys[at + 1], MOST_TRIGGERED)
    if #ids == MOST_TRIGGERED then call('SADD', pool .. 'late:' .. worker, block) end
    for _, id in ipairs(ids) do refresh(load_job(id)) end
  end
end

-- Takes cache events from ARGV: how many blocks were inserted, those, then the evicted ones.
local function hear(worker, first)
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
  for at = 1, #fresh, 1000 do trigger(worker, { unpack(fresh, at, math.min(#fresh, at + 999)) }) end
end

local function assume(worker, job, matched)
  local fresh = {}
  for place = matched + 1, job.blocks do
    fresh[#fresh + 1] = block_at(job, place)
    assumed[fresh[#fresh]] = true
  end
  trigger(worker, fresh)
end

-- The job with the longest match in a worker's queue, once nothing evicted is believed held.
local function hottest(worker)
  for _ = 1, MOST_TRIGGERED do
    local id = first_job('hot', worker)
    local job = id and load_job(id)
    if not job or job.matched == 0 or is_held(worker, block_at(job, job.matched)) then return job end
    refresh(job)
  end
  return load_job(first_job('hot', worker))
end

-- Wakes the queue's worker; when it is busy, an idle one too, which will steal.
local function wake(queue)
  local function push(name)
    if root['woken:' .. name] == 0 then call('RPUSH', pool .. 'wake:' .. name, 1) end
    write(root, 'woken:' .. name, 1)
  end
  push(queue)
  for _, name in ipairs(root['busy:' .. queue] > 0 and workers() or {}) do
    if root['busy:' .. name] == 0 then return push(name) end
  end
end

-- Counts a job's context at the worker it was routed to, or no longer.
local function expect(job, worker)
  local key = pool .. 'contexts:' .. (worker or job.expected)
  if worker then
    call('HINCRBY', key, job.context, 1)
  elseif job.expected ~= 0 and call('HINCRBY', key, job.context, -1) == 0 then
    call('HDEL', key, job.context)
  end
  job.expected = worker or 0
end

-- D2LPM: of the workers with credit, the least loaded that holds or will hold the longest match.
local function route(job)
  local names = workers()
  if #names < 2 then return names[1] or '' end
  local tenant, rounds, matches, choice = load_node(job.tenant), math.huge, {}, nil
  local longest = 0
  for _, name in ipairs(names) do
    local credit = tenant['credit:' .. name]
    rounds = math.min(rounds, credit > 0 and 0 or math.floor(-credit / settings.worker_quantum) + 1)
    local waits = call('HEXISTS', pool .. 'contexts:' .. name, job.context) == 1
    matches[name] = waits and job.blocks or match(name, job)
    longest = math.max(longest, matches[name])
  end
  for _, fits in ipairs({ longest, 0 }) do
    for _, name in ipairs(choice and {} or names) do
      local positive = tenant['credit:' .. name] + rounds * settings.worker_quantum > 0
      local lighter = not choice or root['load:' .. name] < root['load:' .. choice]
      if positive and matches[name] >= fits and lighter then choice = name end
    end
  end
  for _, name in ipairs(rounds > 0 and names or {}) do
    add(tenant, 'credit:' .. name, rounds * settings.worker_quantum)
  end
  add(tenant, 'credit:' .. choice, -job.context_tokens - job.candidate_tokens)
  expect(job, choice)
  return choice
end

local function waiters(job) return pool .. 'waiters:' .. job.queue .. ':' .. job.context end

local function enqueue(job)
  local leaf = load_node(job.leaf)
  job.queue = route(job)
  call('ZADD', index('due', job.queue, leaf, 1), job.due, job.member)
  call('ZADD', pool .. 'deadlines:' .. job.queue, job.due, job.member)
  if settings.attribution == 'split' then call('ZADD', waiters(job), 0, job.leaf .. '\0' .. job.id) end
  count_queued(leaf, job.queue, 1, job.tokens)
  stand(leaf, job.queue, rank(job))
  save_job(job)
  wake(job.queue)
end

-- Takes a job out of its queue; the leaf has to be stood anew.
local function unqueue(job)
  local leaf = load_node(job.leaf)
  call('ZREM', index('hot', job.queue, leaf, 1), job.member)
  call('ZREM', index('due', job.queue, leaf, 1), job.member)
  call('ZREM', pool .. 'deadlines:' .. job.queue, job.member)
  if settings.attribution == 'split' then call('ZREM', waiters(job), job.leaf .. '\0' .. job.id) end
  unwatch(job)
  count_queued(leaf, job.queue, -1, -job.tokens)
end

local function reply(job, outcome, result)
  local key = pool .. 'reply:' .. job.reply_to
  call('RPUSH', key, job.id .. '\0' .. outcome .. '\0' .. result)
  if not expiring[key] then call('PEXPIRE', key, settings.reply_ttl_ms) end
  expiring[key] = true
  expect(job)
  call('DEL', pool .. 'job:' .. job.id)
end

local function expire(job)
  unqueue(job)
  stand(load_node(job.leaf), job.queue)
  reply(job, 'deadline', '')
end

-- Answers queued jobs whose deadline has passed; bounded, so that no call stalls Redis.
local function expire_overdue()
  local count = 0
  for _, queue in ipairs(queues()) do
    local overdue = call('ZRANGEBYSCORE', pool .. 'deadlines:' .. queue, '-inf', now, 'LIMIT', 0, 256)
    for _, member in ipairs(overdue) do expire(load_job(string.sub(member, 13))) end
    count = count + #overdue
  end
  return count
end

-- Moves jobs from queues whose worker is gone to workers that live.
local function adopt(limit)
  if #workers() == 0 then return end
  for _, queue in ipairs(queues()) do
    if root['alive:' .. queue] == 0 and limit > 0 then
      local orphans = call('ZRANGE', pool .. 'deadlines:' .. queue, 0, limit - 1)
      limit = limit - #orphans
      for _, member in ipairs(orphans) do
        local job = load_job(string.sub(member, 13))
        unqueue(job)
        expect(job)
        enqueue(job)
        stand(load_node(job.leaf), queue)
      end
    end
  end
end

-- `payers` alternates leaves and costs; the leaf "" is the platform. `queue` has changed too.
local function settle_accounts(payers, queue, sign)
  local leaves = {}
  for at = 1, #payers, 2 do
    local id, cost = payers[at], sign * payers[at + 1]
    if id == '' then
      add(root, 'platform', cost)
      add(root, 'service', cost)
    elseif load_node(id).weight > 0 then
      leaves[#leaves + 1] = load_node(id)
      pay(leaves[#leaves], cost)
    end
  end
  for _, leaf in ipairs(leaves) do stand(leaf, policy == 'vtc' or queue) end
end

-- Gives back `cost` of what was reserved, to the job's own leaf first.
local function refund(job, cost)
  local parts = {}
  for at = 1, #job.payers, 2 do
    local part = math.min(job.payers[at + 1], cost)
    cost = cost - part
    if part > 0 then parts[#parts + 1], parts[#parts + 2] = job.payers[at], part end
  end
  settle_accounts(parts, false, -1)
end

local function count_leased(job, jobs)
  for node in lineage(load_node(job.leaf)) do add(node, 'leased', jobs) end
  add(root, 'leased', jobs)
  add(root, 'busy:' .. job.worker, jobs)
  add(root, 'load:' .. job.worker, jobs * job.tokens)
end

local function end_lease(job)
  count_leased(job, -1)
  see(load_node(job.leaf))
  call('ZREM', pool .. 'leases', job.id)
  job.epoch, job.worker, job.payers = 0, 0, 0
end

-- A job whose worker is gone: queued anew at its old age, or answered when its attempts are used up.
local function release(job)
  refund(job, job.charged)
  end_lease(job)
  if job.cancelled == 1 then
    expect(job)
    call('DEL', pool .. 'job:' .. job.id)
  elseif job.attempts >= settings.max_attempts then
    reply(job, 'worker_lost', '')
    return 'lost'
  else
    expect(job)
    enqueue(job)
    return 'requeued'
  end
end

-- Ends the leases of a worker with an epoch above the last one it heard of; nil for all of them.
local function release_worker(worker, heard)
  local requeued = 0
  for _, id in ipairs(call('ZRANGE', pool .. 'leases', 0, -1)) do
    local job = load_job(id)
    if job.worker == worker and job.epoch > (heard or 0) then
      if heard then job.attempts = job.attempts - 1 end -- in an answer that never arrived
      if release(job) == 'requeued' then requeued = requeued + 1 end
    end
  end
  return requeued
end

local function forget_worker(worker)
  for _, field in ipairs({ 'alive:', 'streak:', 'sent:', 'woken:' }) do write(root, field .. worker, 0) end
  call('UNLINK', pool .. 'held:' .. worker, pool .. 'late:' .. worker)
  return release_worker(worker)
end
