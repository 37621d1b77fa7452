-- submit: refuses a job or queues it under its tenant and context.
local job = {
  id = ARGV[2],
  tenant = ARGV[3],
  weight = tonumber(ARGV[4]),
  deadline_ms = tonumber(ARGV[5]),
  context = ARGV[6],
  context_tokens = tonumber(ARGV[10]),
  candidate_tokens = tonumber(ARGV[11]),
  reply_to = ARGV[12],
}
job.tokens = job.context_tokens + job.candidate_tokens

local function verdict(tenant)
  if call('EXISTS', pool .. 'job:' .. job.id) == 1 then return 'known' end
  if job.deadline_ms <= 0 then return 'deadline' end
  local queued = call('HMGET', meta, 'queued_jobs', 'queued_tokens')
  if tonumber(queued[1] or 0) + 1 > settings.max_pool_jobs
    or tonumber(queued[2] or 0) + job.tokens > settings.max_pool_tokens then return 'pool_full' end
  if tenant.waiting_jobs + 1 > settings.max_tenant_jobs
    or tenant.waiting_tokens + job.tokens > settings.max_tenant_tokens then return 'tenant_full' end
  return 'queued'
end

local tenant = load_tenant(job.tenant)
local answer = verdict(tenant)
if answer == 'queued' then
  job.sequence = call('HINCRBY', meta, 'sequence', 1)
  job.deadline_at = now + job.deadline_ms
  tenant.weight = job.weight
  call('HSET', pool .. 'job:' .. job.id,
    'tenant', job.tenant, 'context', job.context, 'chain', ARGV[7], 'width', ARGV[8],
    'block_size', ARGV[9], 'context_tokens', job.context_tokens,
    'candidate_tokens', job.candidate_tokens, 'tokens', job.tokens, 'sequence', job.sequence,
    'submitted_at', now, 'deadline_at', job.deadline_at, 'reply_to', job.reply_to,
    'payload', ARGV[13])
  enqueue(job)
end
return { now, answer }
