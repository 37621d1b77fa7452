-- claim: takes a worker's cache events, then leases it jobs in the policy's order and charges for them.
local worker, room, max_jobs = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local strict, heard, me = ARGV[4] == '1', tonumber(ARGV[5]), gate.of_fleet(ARGV[1])

local function lease(job, matched, cached)
  local leaf, uncached = gate.load_node(job.leaf), job.context_tokens - cached
  local cost = gate.cost(uncached + job.candidate_tokens, job.output_tokens)
  gate.refill(leaf)
  job.payers = gate.payers(job, cost, math.min(cost - 1, settings.extend_weight * uncached))
  root.epoch = math.max(root.epoch + 1, time_ms * 1000)
  me.sent, job.epoch, job.worker = root.epoch, root.epoch, worker
  job.charged, job.attempts = cost, job.attempts + 1
  gate.unqueue(job)
  gate.count(job, 'leased', worker, 1)
  for node in gate.up, leaf do
    node.virtual = node.virtual + math.floor(job.tokens * 1000 / node.weight)
  end
  gate.charge(job.payers, 1, policy == 'vtc' or job.queue)
  gate.assume(worker, job, matched)
  gate.save_job(job)
  call('ZADD', pool .. 'leases', now + settings.lease_ms, job.id)
  local payload = call('HGET', pool .. 'job:' .. job.id, 'payload')
  return { job.id, job.epoch, payload, job.reply_to, cost, cached, now - job.submitted_at }
end

local known, instance = me.alive > 0 and 1 or 0, ARGV[6] ~= '' and ARGV[6] or me.instance
if known == 1 and (me.instance or instance) ~= instance then return { now, -1, 0 } end
me.alive, me.instance = now, instance
if known == 1 then gate.hear(worker, 7) -- a part of its events would tell of chains without their front
else call('UNLINK', pool .. 'held:' .. worker, pool .. 'late:' .. worker) end
if heard >= 0 and me.sent > heard then gate.release_worker(worker, heard) end
gate.adopt(16)
gate.rank_on(32)
local most_expired = 64
local resuming = now - root.resumed < settings.pause_ms -- nobody could tell meanwhile that it listens
gate.expire_overdue(most_expired)
local answer = { now, known, 0 }
while #answer - 3 < max_jobs do
  local job, matched, by_prefix = gate.next_job(worker)
  if not job then break end
  matched = matched or gate.match(worker, job)
  local cached = math.min(matched * job.block_size, job.context_tokens)
  local needed = job.tokens - cached + (settings.output_room - 1) * job.output_tokens
  if needed > room and (#answer > 3 or strict) then break end
  local orphan = job.watched and not resuming and not gate.listens(job.reply_to)
  local ended = job.due <= now and 'deadline' or orphan and 'worker_lost'
  if ended and fates.deadline >= most_expired then break end -- the next claim goes on
  gate.count_pick(worker, gate.load_node(job.leaf), by_prefix)
  if ended then
    gate.expire(job, ended)
  else
    answer[#answer + 1] = lease(job, matched, cached)
    room = room - needed
  end
end
if me.jobs > 0 then waking[worker] = true end
answer[3] = fates.deadline
return answer
