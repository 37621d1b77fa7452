-- The pool's workers: who lives, what each has to do, and D2LPM's routing among them.
-- Knows no lease's end and no charge.

local awake -- as long as nobody comes or goes

-- A worker, or the queue of one that is gone; "" is the queue of jobs that came when there was none.
function gate.of_fleet(name)
  fleet[name] = fleet[name] or setmetatable({}, zeros)
  return fleet[name]
end

-- Names of those whose `field` is not zero, in order.
function gate.fleet_with(field)
  local names = {}
  for name, worker in pairs(fleet) do
    if worker[field] ~= 0 then names[#names + 1] = name end
  end
  if #names > 1 then table.sort(names) end
  return names
end

-- Whether a worker was heard lately: one that was not may be dead, though its leases have not ended.
function gate.heard(name) return gate.of_fleet(name).alive > now - settings.worker_silent_ms end

-- Names of the workers heard lately, in order; of all when nobody was, for nobody knows better then.
function gate.awake()
  if awake then return awake end
  local all, names = gate.fleet_with('alive'), {}
  for _, name in ipairs(all) do
    if gate.heard(name) then names[#names + 1] = name end
  end
  awake = names[1] and names or all
  return awake
end

-- Wakes the queue's worker; when it is busy, an idle one too, which will steal.
function gate.wake(queue)
  local names, busy = { queue }, fleet[queue].leased > 0 or not gate.heard(queue)
  for _, name in ipairs(busy and gate.awake() or {}) do
    if fleet[name].leased == 0 then names[2] = name end
  end
  for _, name in ipairs(names) do
    call('DEL', pool .. 'wake:' .. name) -- who is never idle claims without taking any
    if fleet[name].alive > 0 then call('RPUSH', pool .. 'wake:' .. name, 1) end
  end
end

-- Counts a job's context at the worker it was routed to, or no longer ("").
function gate.expect(job, worker)
  if worker == job.expected then return end
  local gone = job.expected ~= '' and pool .. 'contexts:' .. job.expected
  if gone and call('HINCRBY', gone, job.context, -1) == 0 then call('HDEL', gone, job.context) end
  if worker ~= '' then call('HINCRBY', pool .. 'contexts:' .. worker, job.context, 1) end
  job.expected = worker
end

-- D2LPM: of the workers with credit, the least loaded that holds or will hold the longest match.
function gate.route(job)
  local names = gate.awake()
  if #names < 2 then return names[1] or '' end
  local tenant, rounds, longest, matches = gate.load_node(job.tenant), math.huge, 0, {}
  local credits, choice, least = tenant.credits or {}, nil, math.huge
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
    local load = fleet[name].load + (matches[name] < longest and 2 ^ 52 or 0)
    if tenant.credits[name] > 0 and load < least then choice, least = name, load end
  end
  tenant.credits[choice] = tenant.credits[choice] - job.context_tokens - job.candidate_tokens
  gate.expect(job, choice)
  return choice
end
