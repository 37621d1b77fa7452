-- submit: refuses a job, saying when to try again, or queues it. Weights are those named last.
local job = { id = ARGV[1], leaf = ARGV[2], tenant = ARGV[3], context = ARGV[6],
  chain = ARGV[7], width = tonumber(ARGV[8]), blocks = #ARGV[7] / math.max(1, ARGV[8]),
  block_size = tonumber(ARGV[9]), context_tokens = tonumber(ARGV[10]),
  candidate_tokens = tonumber(ARGV[11]), output_tokens = tonumber(ARGV[12]), reply_to = ARGV[13],
  tokens = ARGV[10] + ARGV[11] + ARGV[12], submitted_at = now, due = now + ARGV[5],
  served_before = root.service, matched = 0, epoch = 0, charged = 0,
  attempts = 0, cancelled = 0, watch = '', expected = '', worker = '', payers = {} }
local leaf, tenant = gate.load_node(job.leaf), gate.load_node(job.tenant)

local function conflicts()
  for node in gate.up, leaf do
    if node ~= leaf and node.holds_jobs then return true end
  end
  return leaf.children > 0
end

local function refused(answer, excess)
  if root.drain_rate <= 0 then return { now, answer, settings.retry_after_ms } end
  local wait = math.ceil(1000 * excess / root.drain_rate)
  return { now, answer, math.max(100, math.min(60000, wait)) }
end

local function refusal()
  if conflicts() then return { now, 'level_conflict', 0 } end
  if call('EXISTS', pool .. 'job:' .. job.id) == 1 then return { now, 'known', 0 } end
  if job.due <= now then return { now, 'deadline', 0 } end
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

local answer = refusal()
if not answer then
  local weights = {}
  for weight in string.gmatch(ARGV[4], '%d+') do table.insert(weights, 1, tonumber(weight)) end
  for node in gate.up, leaf do weigh(node, table.remove(weights, 1)) end
  leaf.holds_jobs = true
  root.sequence = root.sequence + 1
  job.sequence = root.sequence
  job.member = string.format('%012d', job.sequence) .. job.id
  local worst = settings.extend_weight * (job.context_tokens + job.candidate_tokens)
  worst = math.max(1, worst + settings.output_weight * job.output_tokens)
  root.largest_cost = math.max(root.largest_cost, worst)
  gate.see(leaf)
  gate.enqueue(job, ARGV[14])
  answer = { now, 'queued', 0 }
end
gate.save()
return answer
