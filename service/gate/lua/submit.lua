-- submit: refuses each job or queues it. Its facts, JSON, and its payload follow each other in ARGV.

local function read_job(at)
  local facts = cjson.decode(ARGV[at])
  facts.submitted_at, facts.due = now, now + facts.deadline_ms
  facts.served_before, facts.sequence = root.service, root.sequence + 1
  facts.member = string.format('%012d', facts.sequence) .. facts.id
  local state = { id = facts.id, leaf = facts.leaf, tokens = facts.tokens, reply_to = facts.reply_to,
    queue = '', expected = '', epoch = 0, worker = '', charged = 0, attempts = 0, payers = false,
    cancelled = false, watched = gate.listens(facts.reply_to) }
  facts.id, facts.leaf, facts.tokens, facts.reply_to, facts.deadline_ms = nil, nil, nil, nil, nil
  return setmetatable(state, { __index = facts }), facts
end

local function conflicts(leaf)
  for node in gate.up, leaf do
    local busy = node.jobs + node.leased > 0
    if busy and (node.holds_jobs or false) == (node ~= leaf) then return true end
  end
end

-- Of how many equal parts a tenant has one: at each level, among those who wait.
local function parts_of(tenant)
  local parts = 1
  for node in gate.up, tenant do
    local waiting = call('ZCARD', pool .. 'waiting:' .. node.parent.id)
    parts = parts * (node.jobs > 0 and waiting or waiting + 1)
  end
  return parts
end

local function above(most_jobs, most_tokens, node, job)
  return node.jobs + 1 > most_jobs or node.tokens + job.tokens > most_tokens
end

-- Above the pool's limits a tenant below its part of them may go on, up to a quarter.
local function pool_is_full(job, tenant)
  local jobs, tokens = settings.max_pool_jobs, settings.max_pool_tokens
  if not above(jobs, tokens, root, job) then return false end
  local parts = parts_of(tenant)
  return above(1.25 * jobs, 1.25 * tokens, root, job) or above(jobs / parts, tokens / parts, tenant, job)
end

local function refusal(job, leaf, tenant)
  return conflicts(leaf) and 'level_conflict'
    or call('EXISTS', pool .. 'job:' .. job.id) == 1 and 'known'
    or job.due <= now and 'deadline'
    or pool_is_full(job, tenant) and 'pool_full'
    or above(settings.max_tenant_jobs, settings.max_tenant_tokens, tenant, job) and 'tenant_full'
    or tenant.jobs + tenant.leased >= settings.max_tenant_in_flight and 'tenant_busy'
    or 'queued'
end

local answer = { now }
for at = 1, #ARGV, 2 do
  local job, facts = read_job(at)
  local leaf, tenant = gate.load_node(job.leaf), gate.load_node(job.tenant)
  local verdict = refusal(job, leaf, tenant)
  answer[#answer + 1] = { verdict, root.tokens, tenant.tokens, root.drain_rate }
  if verdict == 'queued' then
    for node in gate.up, leaf do
      local parent, weight = node.parent, table.remove(facts.weights)
      if node.weight == 0 then node.as_of = parent.round end -- a new one waits for the next refill
      if node.stands > 0 then parent.waiting_weight = parent.waiting_weight + weight - node.weight end
      node.weight, node.holds_jobs = weight, node == leaf
    end
    root.sequence = job.sequence
    local worst = gate.cost(job.context_tokens + job.candidate_tokens, job.output_tokens)
    root.largest_cost = math.max(root.largest_cost, worst)
    gate.enqueue(job, 'facts', cmsgpack.pack(facts), 'payload', ARGV[at + 1])
  end
end
return answer
