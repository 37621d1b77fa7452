-- What a claim decides: which job is next by the pool's policy, and who pays for it. Knows no lease.

-- Highest response ratio next, between the earliest due job and the hottest.
local function sooner(worker, due, hot)
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
local function steal(worker)
  local choice, most, busy = nil, -math.huge, false
  for _, queue in ipairs(gate.fleet_with('jobs')) do
    local other = fleet[queue]
    local idle = queue ~= worker and gate.heard(queue) and other.leased == 0
    local load = other.load - (idle and 2 ^ 52 or 0)
    busy = busy or not idle
    if load > most and queue ~= worker and gate.best('due', queue, root) then
      choice, most = queue, load
    end
  end
  return busy and choice and gate.first_job('due', choice) or nil
end

-- The earliest due of the job's leaf, if that had its picks by prefix in a row there.
local function overtaken(worker, job)
  local leaf = gate.load_node(job.leaf)
  local due = leaf.streaks and (leaf.streaks[worker] or 0) >= settings.overtakes
  return due and gate.load_job((gate.best('due', worker, leaf)))
end

-- The job to serve now, its match if known, and whether it goes by prefix, if that is counted.
function gate.next_job(worker)
  local job, matched
  local by_due = policy == 'fcfs' or gated and fleet[worker].streak >= settings.overtakes
  if policy == 'vtc' then job = gate.first_job('virtual', worker)
  elseif by_due then job = gate.first_job('due', worker)
  else job, matched = gate.hottest(worker) end
  if not job then return steal(worker) end
  if policy == 'hrrn' then return sooner(worker, gate.first_job('due', worker), job) end
  if not gated then return job, matched end
  local due = not by_due and overtaken(worker, job)
  if due then return due, nil, false end
  return job, matched, not by_due
end

-- A pick by deadline ends both rows: the worker's and that of the leaf there.
function gate.count_pick(worker, leaf, by_prefix)
  if by_prefix == nil then return end
  local me, streaks = fleet[worker], leaf.streaks or {}
  me.streak = by_prefix and me.streak + 1 or 0
  streaks[worker] = by_prefix and (streaks[worker] or 0) + 1 or nil
  leaf.streaks = next(streaks) and streaks
end

-- Who bears the context's part of a cost beside the job's own leaf: of the leaves that wait on the
-- same context, 15 at most that are in credit; or the platform, which leaves it nothing of that.
local function sharers(job)
  local found, leaves = {}, call('ZRANGE', gate.waiters(job), 0, 255)
  for _, id in ipairs(leaves) do
    local credit = id ~= job.leaf and #found < 15
    for node in gate.up, gate.load_node(id) do
      gate.catch_up(node)
      credit = credit and gate.rounds_owed(node) == 0
    end
    if credit then found[#found + 1] = id end
  end
  return found, #found + 1
end

-- Leaves and what each pays.
function gate.payers(job, cost, context_cost)
  local row, others, among = { job.leaf, cost }, {}, 1
  if settings.attribution == 'platform' then others = { '' }
  elseif settings.attribution == 'split' and context_cost > 0 then others, among = sharers(job) end
  local part = math.floor(context_cost / among)
  for _, id in ipairs(part > 0 and others or {}) do
    row[2] = row[2] - part
    row[#row + 1], row[#row + 2] = id, part
  end
  return row
end
