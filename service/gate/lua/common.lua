-- Shared head of every verb: the pool's keys, Redis' clock, balances under lazy refill, queue moves.
-- Knows nothing of what payloads mean. KEYS[1] is "{pool}:meta", ARGV[1] the settings as JSON.
--
-- meta            hash   round, sequence, epoch, queued_jobs, queued_tokens, heartbeat
-- tenant:T        hash   deficit as of `round`, weight, waiting_jobs, waiting_tokens, leased_jobs, service
-- tenants         zset   tenant by the time it was last seen
-- waiting         zset   tenant with queued jobs, by the round at which its deficit is positive
-- groups:T        zset   context by the sequence of its first queued job
-- group:T:C       zset   queued job of tenant T and context C by its sequence
-- job:J           hash   the job; `epoch` only while leased
-- deadlines       zset   queued job by the time it is overdue
-- leases          zset   leased job by the time its lease ends
-- workers         zset   worker by the time it was last seen
-- held:W          set    block hashes in the prefix cache of worker W
-- wake            list   at most one token: a worker should claim
-- reply:R         list   answers for the API process R

local pool = string.sub(KEYS[1], 1, -5)
local meta = KEYS[1]
local settings = cjson.decode(ARGV[1])
local call = redis.call

local function clock()
  local time = call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local now = clock()
local round = tonumber(call('HGET', meta, 'round') or 0)
local tenants = {} -- loaded in this call, by name

-- A tenant stores its deficit as of some round. Each round since then was a refill, which adds
-- weight * quantum to a deficit <= 0 and leaves a positive one alone.
local function refills_owed(tenant)
  if tenant.deficit > 0 then return 0 end
  return math.floor(-tenant.deficit / (tenant.weight * settings.quantum)) + 1
end

local function catch_up(tenant)
  local refills = math.min(refills_owed(tenant), round - tenant.round)
  tenant.deficit = tenant.deficit + refills * tenant.weight * settings.quantum
  tenant.round = round
  return tenant
end

local function load_tenant(name)
  if tenants[name] then return catch_up(tenants[name]) end
  local row = call('HMGET', pool .. 'tenant:' .. name,
    'deficit', 'round', 'weight', 'waiting_jobs', 'waiting_tokens', 'leased_jobs', 'service')
  tenants[name] = {
    name = name,
    deficit = tonumber(row[1] or 0),
    round = tonumber(row[2] or round), -- a new tenant starts at 0 and waits for the next refill
    weight = tonumber(row[3] or 1),
    waiting_jobs = tonumber(row[4] or 0),
    waiting_tokens = tonumber(row[5] or 0),
    leased_jobs = tonumber(row[6] or 0),
    service = tonumber(row[7] or 0),
  }
  return catch_up(tenants[name])
end

local function save_tenant(tenant)
  call('HSET', pool .. 'tenant:' .. tenant.name,
    'deficit', tenant.deficit, 'round', tenant.round, 'weight', tenant.weight,
    'waiting_jobs', tenant.waiting_jobs, 'waiting_tokens', tenant.waiting_tokens,
    'leased_jobs', tenant.leased_jobs, 'service', tenant.service)
  call('ZADD', pool .. 'tenants', now, tenant.name)
  if tenant.waiting_jobs > 0 then
    call('ZADD', pool .. 'waiting', tenant.round + refills_owed(tenant), tenant.name)
  else
    call('ZREM', pool .. 'waiting', tenant.name)
  end
end

local function load_job(id)
  local row = call('HMGET', pool .. 'job:' .. id, 'tenant', 'context', 'sequence', 'tokens',
    'deadline_at', 'reply_to', 'epoch', 'charged', 'attempts', 'cancelled', 'worker')
  if not row[1] then return nil end
  return {
    id = id,
    tenant = row[1],
    context = row[2],
    sequence = tonumber(row[3]),
    tokens = tonumber(row[4]),
    deadline_at = tonumber(row[5]),
    reply_to = row[6],
    epoch = tonumber(row[7] or 0),
    charged = tonumber(row[8] or 0),
    attempts = tonumber(row[9] or 0),
    cancelled = row[10] ~= false,
    worker = row[11],
  }
end

local function wake()
  if call('EXISTS', pool .. 'wake') == 0 then call('RPUSH', pool .. 'wake', '1') end
end

-- A context's place among its tenant's groups is its first job's sequence.
local function place_group(tenant_name, context)
  local groups = pool .. 'groups:' .. tenant_name
  local head = call('ZRANGE', pool .. 'group:' .. tenant_name .. ':' .. context, 0, 0, 'WITHSCORES')
  if head[1] then call('ZADD', groups, head[2], context) else call('ZREM', groups, context) end
end

local function count_queued(job, jobs)
  local tenant = load_tenant(job.tenant)
  local tokens = jobs * job.tokens + 0 -- Redis refuses the -0 of minus one job without tokens
  tenant.waiting_jobs = tenant.waiting_jobs + jobs
  tenant.waiting_tokens = tenant.waiting_tokens + tokens
  call('HINCRBY', meta, 'queued_jobs', jobs)
  call('HINCRBY', meta, 'queued_tokens', tokens)
  save_tenant(tenant)
end

local function enqueue(job)
  call('ZADD', pool .. 'group:' .. job.tenant .. ':' .. job.context, job.sequence, job.id)
  call('ZADD', pool .. 'deadlines', job.deadline_at, job.id)
  place_group(job.tenant, job.context)
  count_queued(job, 1)
  wake()
end

local function dequeue(job)
  call('ZREM', pool .. 'group:' .. job.tenant .. ':' .. job.context, job.id)
  call('ZREM', pool .. 'deadlines', job.id)
  place_group(job.tenant, job.context)
  count_queued(job, -1)
end

local function reply(job, outcome, result)
  local key = pool .. 'reply:' .. job.reply_to
  call('RPUSH', key, job.id .. '\0' .. outcome .. '\0' .. result)
  call('PEXPIRE', key, settings.reply_ttl_ms)
end

local function remove_job(job)
  call('DEL', pool .. 'job:' .. job.id)
end

local function expire(job)
  dequeue(job)
  reply(job, 'deadline', '')
  remove_job(job)
end

-- Answers queued jobs whose deadline has passed; bounded, so that no call stalls Redis.
local function expire_overdue()
  local overdue = call('ZRANGEBYSCORE', pool .. 'deadlines', '-inf', now, 'LIMIT', 0, 256)
  for _, id in ipairs(overdue) do expire(load_job(id)) end
  return #overdue
end

local function end_lease(job, refund)
  local tenant = load_tenant(job.tenant)
  tenant.deficit = tenant.deficit + refund
  tenant.service = tenant.service - refund
  tenant.leased_jobs = tenant.leased_jobs - 1
  save_tenant(tenant)
  call('ZREM', pool .. 'leases', job.id)
  call('HDEL', pool .. 'job:' .. job.id, 'epoch', 'worker', 'charged')
end

-- A job whose worker is gone: back to its old place, or answered when its attempts are used up.
local function release(job)
  end_lease(job, job.charged)
  if job.cancelled then
    remove_job(job)
  elseif job.attempts >= settings.max_attempts then
    reply(job, 'worker_lost', '')
    remove_job(job)
    return 'lost'
  else
    enqueue(job)
    return 'requeued'
  end
end

local function forget_worker(worker)
  local requeued = 0
  for _, id in ipairs(call('ZRANGE', pool .. 'leases', 0, -1)) do
    local job = load_job(id)
    if job.worker == worker and release(job) == 'requeued' then requeued = requeued + 1 end
  end
  call('DEL', pool .. 'held:' .. worker)
  call('ZREM', pool .. 'workers', worker)
  return requeued
end
