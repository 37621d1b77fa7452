-- submit: refuses each job, saying when to try again, or queues it. Weights are those named last.
local FIELDS = 14 -- arguments of one job

local function read_job(at)
  local chain, width = ARGV[at + 6], tonumber(ARGV[at + 7])
  local facts = { tenant = ARGV[at + 2], context = ARGV[at + 5], chain = chain, width = width,
    blocks = width > 0 and #chain / width or 0, block_size = tonumber(ARGV[at + 8]),
    context_tokens = tonumber(ARGV[at + 9]), candidate_tokens = tonumber(ARGV[at + 10]),
    output_tokens = tonumber(ARGV[at + 11]), submitted_at = now, due = now + ARGV[at + 4],
    served_before = root.service, sequence = root.sequence + 1 }
  facts.member = string.format('%012d', facts.sequence) .. ARGV[at]
  local state = { id = ARGV[at], leaf = ARGV[at + 1], reply_to = ARGV[at + 12], queue = '', expected = '',
    tokens = facts.context_tokens + facts.candidate_tokens + facts.output_tokens, matched = 0, epoch = 0,
    worker = '', charged = 0, attempts = 0, payers = false, cancelled = false }
  return setmetatable(state, { __index = facts }), facts
end

local function conflicts(leaf)
  for node in gate.up, leaf do
    if node ~= leaf and node.holds_jobs then return true end
  end
  return leaf.children > 0
end

local function refused(answer, excess)
  if root.drain_rate <= 0 then return answer, settings.retry_after_ms end
  local wait = math.ceil(1000 * excess / root.drain_rate)
  return answer, math.max(100, math.min(60000, wait))
end

local function refusal(job, leaf, tenant)
  if conflicts(leaf) then return 'level_conflict', 0 end
  if call('EXISTS', pool .. 'job:' .. job.id) == 1 then return 'known', 0 end
  if job.due <= now then return 'deadline', 0 end
  local above = root.tokens + job.tokens - settings.max_pool_tokens
  if root.jobs >= settings.max_pool_jobs or above > 0 then
    return refused('pool_full', math.max(job.tokens, above))
  end
  above = tenant.tokens + job.tokens - settings.max_tenant_tokens
  -- Beside one token of the tenant's, the others' share of the queue drains as well.
  local excess = math.max(job.tokens, above) * math.max(1, root.tokens)
  excess = math.floor(excess / math.max(1, tenant.tokens))
  if tenant.jobs >= settings.max_tenant_jobs or above > 0 then return refused('tenant_full', excess) end
  if tenant.jobs + tenant.leased >= settings.max_tenant_in_flight then
    return refused('tenant_busy', excess)
  end
end

local function weigh(node, weight)
  if node.weight == weight then return end
  if node.weight == 0 then
    node.as_of = node.parent.round -- a new node waits for the next refill
    node.parent.children = node.parent.children + 1
  elseif node.stands > 0 then
    node.parent.waiting_weight = node.parent.waiting_weight + (weight - node.weight)
  end
  node.weight = weight
end

local function queue(job, leaf, weights, ...)
  local weight = {}
  for number in string.gmatch(weights, '%d+') do table.insert(weight, 1, tonumber(number)) end
  for node in gate.up, leaf do weigh(node, table.remove(weight, 1)) end
  leaf.holds_jobs = true
  root.sequence = job.sequence
  local worst = gate.cost(job.context_tokens + job.candidate_tokens, job.output_tokens)
  root.largest_cost = math.max(root.largest_cost, worst)
  gate.see(leaf)
  gate.enqueue(job, ...)
end

local answer = { now }
for at = 1, #ARGV, FIELDS do
  local job, facts = read_job(at)
  local leaf = gate.load_node(job.leaf)
  local verdict, wait = refusal(job, leaf, gate.load_node(job.tenant))
  if not verdict then
    queue(job, leaf, ARGV[at + 3], 'facts', cmsgpack.pack(facts), 'payload', ARGV[at + 13])
  end
  answer[#answer + 1], answer[#answer + 2] = verdict or 'queued', wait or 0
end
gate.save()
return answer
