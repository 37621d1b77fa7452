-- claim: takes a worker's cache events, then leases it jobs in the policy's order and charges for them.
local worker, room, max_jobs = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local strict, heard = ARGV[4] == '1', tonumber(ARGV[5])

-- Highest response ratio next, between the earliest due job and the hottest.
local function sooner(due, hot)
  if hot.id == due.id then return hot end
  local function waited(job) return root.service - job.served_before end
  local function uncached(job)
    local cached = math.min(gate.match(worker, job) * job.block_size, job.context_tokens)
    return math.max(1, job.tokens - cached)
  end
  return waited(due) * uncached(hot) > waited(hot) * uncached(due) and due or hot
end

-- The earliest due of the longest queue whose owner cannot serve it right now. Idle owners are left
-- alone unless what waits elsewhere is held back by their jobs.
local function steal()
  local names, idle, victim = gate.fleet_with('jobs'), {}, nil
  for _, queue in ipairs(names) do
    idle[queue] = queue ~= worker and fleet[queue].alive ~= 0 and fleet[queue].busy == 0
    if idle[queue] then idle[#idle + 1] = queue end
  end
  for _, queue in ipairs(#idle < #names and names or {}) do
    local load = fleet[queue].load - (idle[queue] and 2 ^ 52 or 0)
    if queue ~= worker and gate.best('due', queue, root) and (not victim or load > victim.load) then
      victim = { queue = queue, load = load }
    end
  end
  return victim and gate.load_whole(gate.first_job('due', victim.queue))
end

-- The job to serve now, how it changes the count of picks by prefix in a row, and its match if known.
local function next_job()
  local function first(kind)
    local id = gate.first_job(kind, worker)
    return id and gate.load_whole(id)
  end
  local streak = fleet[worker].streak
  local by_due = policy == 'fcfs' or gated and streak >= settings.overtakes
  local job, matched
  if policy == 'vtc' then job = first('virtual')
  elseif by_due then job = first('due')
  else job, matched = gate.hottest(worker) end
  if not job then return steal(), 0 end
  if policy == 'hrrn' then job, matched = sooner(first('due'), job), nil end
  return job, gated and (by_due and -streak or 1) or 0, matched
end

local function in_credit(leaf)
  for node in gate.up, leaf do
    gate.catch_up(node)
    if gated and node.deficit <= 0 then return false end
  end
  return true
end

-- Other leaves in credit that wait for the same context, 15 at most.
local function sharers(job)
  local found, last = {}, job.leaf
  for _, member in ipairs(call('ZRANGE', gate.waiters(job), 0, 255)) do
    local leaf = string.match(member, '^%Z*')
    if #found < 15 and leaf ~= last and leaf ~= job.leaf and in_credit(gate.load_node(leaf)) then
      found[#found + 1] = leaf
    end
    last = leaf
  end
  return found
end

-- Leaves and what each pays; false when the job's own pays all.
local function payers(job, cost, context_cost)
  local others, part = {}, 0
  if settings.attribution == 'split' and context_cost > 0 then
    others = sharers(job)
    part = math.floor(context_cost / (#others + 1))
  elseif settings.attribution == 'platform' then
    others, part = { '' }, context_cost
  end
  if part == 0 or #others == 0 then return false end
  local row = { job.leaf, cost - part * #others }
  for _, id in ipairs(others) do row[#row + 1], row[#row + 2] = id, part end
  return row
end

local function lease(job, matched, cached)
  local uncached = job.context_tokens - cached
  local cost = settings.extend_weight * (uncached + job.candidate_tokens)
  cost = math.max(1, cost + settings.output_weight * job.output_tokens)
  root.epoch = math.max(root.epoch + 1, time_ms * 1000)
  fleet[worker].sent = root.epoch
  gate.refill(gate.load_node(job.leaf))
  job.payers = payers(job, cost, math.min(cost - 1, settings.extend_weight * uncached))
  job.epoch, job.worker, job.charged, job.attempts = root.epoch, worker, cost, job.attempts + 1
  local leaf = gate.unqueue(job)
  gate.count_leased(job, leaf, 1)
  local payers = job.payers or { job.leaf, cost }
  gate.charge(payers, 1)
  for node in gate.up, leaf do
    node.virtual = node.virtual + math.floor(job.tokens * 1000 / node.weight)
  end
  gate.stand(leaf, policy == 'vtc' or job.queue)
  for at = 3, #payers, 2 do
    if payers[at] ~= '' then gate.stand(gate.load_node(payers[at]), policy == 'vtc') end
  end
  gate.assume(worker, job, matched)
  gate.save_job(job)
  call('ZADD', pool .. 'leases', now + settings.lease_ms, job.id)
  return { job.id, job.epoch, job.payload, job.reply_to, cost, cached, now - job.submitted_at }
end

local me = gate.of_fleet(worker)
local known = me.alive ~= 0 and 1 or 0
me.alive, me.woken = now, 0
if known == 1 then gate.hear(worker, 6) -- a part of its events would tell of chains without their front
else call('UNLINK', pool .. 'held:' .. worker, pool .. 'late:' .. worker) end
if heard >= 0 and me.sent > heard then gate.release_worker(worker, heard) end
gate.adopt(16)
local answer = { now, known, gate.expire_overdue() }
while #answer - 3 < max_jobs do
  local job, streak, matched = next_job()
  if not job then break end
  matched = matched or gate.match(worker, job)
  local cached = math.min(matched * job.block_size, job.context_tokens)
  if job.tokens - cached > room and (#answer > 3 or strict) then break end
  me.streak = me.streak + streak
  if job.due <= now then
    gate.expire(job)
    answer[3] = answer[3] + 1
  else
    answer[#answer + 1] = lease(job, matched, cached)
    room = room - (job.tokens - cached)
  end
end
if me.jobs > 0 then gate.wake(worker) end
gate.save()
return answer
