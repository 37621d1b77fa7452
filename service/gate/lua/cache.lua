-- What a worker's prefix cache means for the groups that wait for it. Knows no counter and no lease.
-- A group is the jobs of one leaf on one context in one queue: what is held of their context is looked
-- up once for all of them. It watches the first block that its worker does not hold, so an insert
-- finds whom it concerns; that a block was evicted is seen when the group comes first.

local MOST_BLOCKS, MOST_WAITING = 4095, 32 -- as in policy.heat
local room = 128 -- groups looked at in one call
local assumed = {} -- blocks that the batch being claimed will compute

function gate.block_at(job, place)
  return string.sub(job.chain, (place - 1) * job.width + 1, place * job.width)
end

-- Leaves are evicted first, so the held part of a chain is its front: binary search finds the end,
-- after the most frequent answers, all and nothing.
function gate.match(worker, job)
  local low, high, key = 1, job.blocks, pool .. 'held:' .. worker
  if high == 0 then return 0 end
  local last, first = gate.block_at(job, high), gate.block_at(job, 1)
  local held = call('SMISMEMBER', key, last, first)
  if held[1] == 1 or assumed[last] then return high end
  if held[2] == 0 and not assumed[first] then return 0 end
  while low < high do
    local middle = math.ceil((low + high) / 2)
    local block = gate.block_at(job, middle)
    if assumed[block] or call('SISMEMBER', key, block) == 1 then low = middle else high = middle - 1 end
  end
  return low
end

-- `name` is a leaf and a context; `first` is a job as it is named in the indexes. One that `left` is
-- taken out before.
function gate.load_group(queue, name, left)
  local key = pool .. 'group:' .. queue .. ':' .. name
  if left then call('ZREM', key, left) end
  local rows = call('ZRANGE', key, 0, 1, 'WITHSCORES')
  return { key = key, name = name, matched = -1 - (rows[2] or 0), first = rows[3],
    jobs = rows[3] and call('ZCARD', key) - 1 or 0 }
end

function gate.group_of(job, left)
  return gate.load_group(job.queue, job.leaf .. '\0' .. job.context, left)
end

local function watch(job, group, begins)
  if group.matched == job.blocks then return end
  local key = pool .. 'watches:' .. job.queue .. ':' .. gate.block_at(job, group.matched + 1)
  if begins then call('ZADD', key, 0, group.name) else call('ZREM', key, group.name) end
end

-- Puts a group in its leaf's order by its heat; returns the score of its first job, if it is hot.
function gate.rank(job, group, hot_before)
  local key = gate.index('hot', job.queue, gate.load_node(job.leaf), 1)
  local waiting = gated and job.blocks > 0 and math.min(group.jobs, MOST_WAITING) or 1
  local heat = math.min(group.matched, MOST_BLOCKS) * MOST_WAITING + waiting - 1
  if group.jobs > 0 and heat > 0 then
    local score = string.sub(group.first, 1, 12) - heat * 2 ^ 36
    call('ZADD', key, score, job.context)
    return score
  elseif hot_before then call('ZREM', key, job.context) end
end

-- Adds a queued job to its group. Returns the scores that it can improve.
function gate.enter(job)
  local group = gate.group_of(job)
  if group.jobs > 0 then
    call('ZADD', group.key, job.sequence, job.member)
    group = gate.group_of(job)
  else
    group.jobs, group.first, group.matched = 1, job.member, gate.match(job.queue, job)
    call('ZADD', group.key, -1 - group.matched, '', job.sequence, job.member)
    watch(job, group, true)
    if settings.attribution == 'split' then call('ZADD', gate.waiters(job), 0, job.leaf) end
  end
  return { due = job.due, hot = gate.rank(job, group) }
end

function gate.exit(job)
  local group = gate.group_of(job, job.member)
  if group.jobs == 0 then
    watch(job, group)
    call('DEL', group.key)
    if settings.attribution == 'split' then call('ZREM', gate.waiters(job), job.leaf) end
  end
  gate.rank(job, group, group.jobs + group.matched > 0)
end

-- Looks anew at what is held of a group's context; `job` is its first.
function gate.refresh(job, group)
  local before, matched = group.matched, gate.match(job.queue, job)
  if matched == before then return end
  watch(job, group)
  group.matched = matched
  call('ZADD', group.key, -1 - matched, '')
  watch(job, group, true)
  local came = { due = job.due, hot = gate.rank(job, group, true) }
  gate.stand(gate.load_node(job.leaf), job.queue, matched > before and came)
end

-- Looks at the groups that watched these blocks; when there are very many, at the others later.
function gate.trigger(worker, fresh)
  local keys, watch_of = {}, pool .. 'watches:' .. worker .. ':'
  for at, block in ipairs(fresh) do keys[at] = watch_of .. block end
  if #fresh == 0 or call('EXISTS', unpack(keys)) == 0 then return end
  for at, block in ipairs(fresh) do
    local names = room > 0 and call('ZRANGE', keys[at], 0, room - 1) or {}
    room = room - #names
    for _, name in ipairs(names) do
      local group = gate.load_group(worker, name)
      gate.refresh(gate.load_job(group.first), group)
    end
    local late = room == 0 and call('EXISTS', keys[at]) == 1
    if late then call('SADD', pool .. 'late:' .. worker, block) end
  end
end

-- Takes cache events from ARGV: how many blocks were inserted, those, then the evicted ones.
function gate.hear(worker, first)
  local held, last = pool .. 'held:' .. worker, first + ARGV[first]
  local fresh = { unpack(ARGV, first + 1, last) }
  if fresh[1] then call('SADD', held, unpack(fresh)) end
  if ARGV[last + 1] then call('SREM', held, unpack(ARGV, last + 1)) end
  for _, block in ipairs(call('SPOP', pool .. 'late:' .. worker, 8)) do
    if call('SISMEMBER', held, block) == 1 then fresh[#fresh + 1] = block end
  end
  gate.trigger(worker, fresh)
end

-- The rest of this batch finds the job's context held.
function gate.assume(worker, job, matched)
  local fresh = {}
  for place = matched + 1, job.blocks do
    local block = gate.block_at(job, place)
    assumed[block] = true
    if place <= MOST_BLOCKS then fresh[#fresh + 1] = block end -- further ones make nothing hotter
  end
  gate.trigger(worker, fresh)
end

-- The job with the highest heat in a worker's queue, once nothing evicted is believed held, and the
-- match; where nothing is hot, the earliest due.
function gate.hottest(worker)
  for _ = 1, 64 do
    local job, group = gate.first_job('hot', worker)
    if not job then break end
    local believed = group.matched
    gate.refresh(job, group)
    if group.matched >= believed then return job, group.matched end
  end
  return gate.first_job('due', worker)
end
