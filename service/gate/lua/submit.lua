-- submit: refuses each job or queues it. Its facts, JSON, and its payload follow each other in ARGV.

local function read_job(at)
  local facts = cjson.decode(ARGV[at])
  facts.submitted_at, facts.due = now, now + facts.deadline_ms
  facts.served_before, facts.sequence = root.service, root.sequence + 1
  facts.member = string.format('%012d', facts.sequence) .. facts.id
  local state = { id = facts.id, leaf = facts.leaf, tokens = facts.tokens, reply_to = facts.reply_to,
    queue = '', expected = '', epoch = 0, worker = '', charged = 0, attempts = 0, payers = false,
    cancelled = false, watched = gate.listens(facts.reply_to) }
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

local function refusal(job, leaf, tenant)
  local function full(node, kind, times, parts)
    local function limit(what) return math.floor(settings['max_' .. kind .. what] * times / parts) end
    return node.jobs + 1 > limit('_jobs') or node.tokens + job.tokens > limit('_tokens')
  end
  local function pool_full()
    if not full(root, 'pool', 1, 1) then return false end
    return full(root, 'pool', 1.25, 1) or full(tenant, 'pool', 1, parts_of(tenant))
  end
  local in_flight = tenant.jobs + tenant.leased
  return conflicts(leaf) and 'level_conflict'
    or call('EXISTS', pool .. 'job:' .. job.id) == 1 and 'known'
    or job.deadline_ms <= 0 and 'deadline'
    or pool_full() and 'pool_full'
    or full(tenant, 'tenant', 1, 1) and 'tenant_full'
    or in_flight >= settings.max_tenant_in_flight and 'tenant_busy'
end

-- Makes a node where it is new; weights are those named last.
local function weigh(node, weight)
  if node.weight == 0 then
    node.as_of = node.parent.round -- a new node waits for the next refill
    node.parent.children = node.parent.children + 1
  elseif node.stands > 0 then
    node.parent.waiting_weight = node.parent.waiting_weight + (weight - node.weight)
  end
  node.weight = weight
end

local answer = { now }
for at = 1, #ARGV, 2 do
  local job, facts = read_job(at)
  local leaf, tenant = gate.load_node(job.leaf), gate.load_node(job.tenant)
  local verdict = refusal(job, leaf, tenant) or 'queued'
  for _, cell in ipairs({ verdict, root.tokens, tenant.tokens, root.drain_rate }) do
    answer[#answer + 1] = cell
  end
  if verdict == 'queued' then
    for node in gate.up, leaf do
      weigh(node, table.remove(facts.weights))
      node.holds_jobs = node == leaf
    end
    root.sequence = job.sequence
    local worst = gate.cost(job.context_tokens + job.candidate_tokens, job.output_tokens)
    root.largest_cost = math.max(root.largest_cost, worst)
    gate.see(leaf)
    gate.enqueue(job, 'facts', cmsgpack.pack(facts), 'payload', ARGV[at + 1])
  end
end
gate.save()
return answer
