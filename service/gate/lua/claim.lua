-- claim: takes a worker's cache events, then leases jobs to it in DLPM order and charges for them.
local worker = ARGV[2]
local token_budget = tonumber(ARGV[3])
local max_jobs = tonumber(ARGV[4])
local inserted_count = tonumber(ARGV[5])
local held = pool .. 'held:' .. worker

local matched = {} -- tokens of a context this worker holds, this batch's own work included
local candidates = {} -- one per tenant and context, the first job of the group; in order of choice
local in_order = true
local collected = {} -- tenants whose groups stand in `candidates`
local collected_round -- the round at which `candidates` was last completed
local sharing = {} -- how many candidates have a context
local heads = {} -- candidate by its sequence
local turn -- jobs up to this sequence were overtaken too often

local function apply_cache_events()
  for index = 6, #ARGV do
    if index < 6 + inserted_count then call('SADD', held, ARGV[index])
    else call('SREM', held, ARGV[index]) end
  end
  call('ZADD', pool .. 'workers', now, worker)
end

-- Leaves are evicted first, so the held part of a chain is a prefix and binary search finds its end.
local function held_tokens(chain, width, block_size, context_tokens)
  local low, high = 0, width > 0 and #chain / width or 0
  while low < high do
    local middle = math.ceil((low + high) / 2)
    local block = string.sub(chain, (middle - 1) * width + 1, middle * width)
    if call('SISMEMBER', held, block) == 1 then low = middle else high = middle - 1 end
  end
  return math.min(low * block_size, context_tokens)
end

-- Makes `candidate` stand for its group's first job; false when the group is empty.
local function load_head(candidate)
  local key = pool .. 'group:' .. candidate.tenant .. ':' .. candidate.context
  local head = call('ZRANGE', key, 0, 0, 'WITHSCORES')
  if not head[1] then return false end
  candidate.id, candidate.sequence = head[1], tonumber(head[2])
  heads[candidate.sequence] = candidate
  local row = call('HMGET', pool .. 'job:' .. candidate.id,
    'context_tokens', 'candidate_tokens', 'deadline_at', 'chain', 'width', 'block_size')
  candidate.context_tokens, candidate.candidate_tokens = tonumber(row[1]), tonumber(row[2])
  candidate.deadline_at = tonumber(row[3])
  if not matched[candidate.context] then
    matched[candidate.context] =
      held_tokens(row[4], tonumber(row[5]), tonumber(row[6]), candidate.context_tokens)
  end
  return true
end

-- Overtaken jobs first, by arrival; then the longest cached prefix, ties by arrival.
local function goes_before(one, other)
  local overtaken, other_overtaken = one.sequence <= turn, other.sequence <= turn
  if overtaken ~= other_overtaken then return overtaken end
  local cached, other_cached = matched[one.context], matched[other.context]
  if not overtaken and cached ~= other_cached then return cached > other_cached end
  return one.sequence < other.sequence
end

local function collect(tenant_name)
  collected[tenant_name] = true
  for _, context in ipairs(call('ZRANGE', pool .. 'groups:' .. tenant_name, 0, -1)) do
    local candidate = { tenant = tenant_name, context = context }
    if load_head(candidate) then
      candidates[#candidates + 1] = candidate
      sharing[context] = (sharing[context] or 0) + 1
      in_order = false
    end
  end
end

-- Tenants in credit; when none of those waiting is, as many refills at once as the nearest needs.
local function collect_positive()
  local nearest = call('ZRANGE', pool .. 'waiting', 0, 0, 'WITHSCORES')
  if not nearest[1] then return end
  if tonumber(nearest[2]) > round then
    round = tonumber(nearest[2])
    call('HSET', meta, 'round', round)
  end
  if collected_round == round then return end
  collected_round = round
  for _, name in ipairs(call('ZRANGEBYSCORE', pool .. 'waiting', '-inf', round)) do
    if not collected[name] then collect(name) end
  end
end

local function extend_tokens(candidate)
  local context_tokens = candidate.context_tokens - matched[candidate.context]
  return math.max(1, context_tokens + candidate.candidate_tokens)
end

-- The first candidate whose tenant is in credit and whose job fits the budget.
local function pick(room, batch_is_empty)
  if not in_order then table.sort(candidates, goes_before) end
  in_order = true
  for index, candidate in ipairs(candidates) do
    if load_tenant(candidate.tenant).deficit > 0
      and (batch_is_empty or extend_tokens(candidate) <= room) then return candidate, index end
  end
end

-- One job less waits, so the job of the next sequence counts as overtaken: last of those that do.
local function depart()
  turn = turn + 1
  local overtaken = heads[turn]
  if not in_order or not overtaken or overtaken.sequence ~= turn then return end
  local place
  for index, candidate in ipairs(candidates) do
    if not place and (candidate == overtaken or candidate.sequence > turn) then place = index end
    if candidate == overtaken then
      table.insert(candidates, place, table.remove(candidates, index))
      break
    end
  end
end

-- The next job of the group takes the candidate's place; all that share its context move up.
local function advance(candidate, index)
  if load_head(candidate) then
    in_order = false
  else
    table.remove(candidates, index)
    sharing[candidate.context] = sharing[candidate.context] - 1
    in_order = in_order and sharing[candidate.context] == 0
  end
end

local function lease(candidate)
  local charged, cached = extend_tokens(candidate), matched[candidate.context]
  local job = load_job(candidate.id)
  local epoch = call('HINCRBY', meta, 'epoch', 1)
  local tenant = load_tenant(job.tenant)
  tenant.deficit = tenant.deficit - charged
  tenant.service = tenant.service + charged
  tenant.leased_jobs = tenant.leased_jobs + 1
  dequeue(job)
  call('HSET', pool .. 'job:' .. job.id,
    'epoch', epoch, 'worker', worker, 'charged', charged, 'attempts', job.attempts + 1)
  call('ZADD', pool .. 'leases', now + settings.lease_ms, job.id)
  matched[job.context] = candidate.context_tokens
  local row = call('HMGET', pool .. 'job:' .. job.id, 'payload', 'submitted_at')
  return { job.id, epoch, row[1], job.reply_to, charged, cached, now - tonumber(row[2]) }
end

apply_cache_events()
local answer = { now, expire_overdue() }
local counts = call('HMGET', meta, 'sequence', 'queued_jobs')
turn = tonumber(counts[1] or 0) - tonumber(counts[2] or 0) - settings.overtakes + 1
local room, jobs = token_budget, 0
while jobs < max_jobs do
  collect_positive()
  local candidate, index = pick(room, jobs == 0)
  if not candidate then break end
  if candidate.deadline_at <= now then
    expire(load_job(candidate.id))
    answer[2] = answer[2] + 1
  else
    answer[#answer + 1] = lease(candidate)
    room, jobs = room - answer[#answer][5], jobs + 1
  end
  advance(candidate, index)
  depart()
end
if call('EXISTS', pool .. 'waiting') == 1 then wake() else call('DEL', pool .. 'wake') end
return answer
