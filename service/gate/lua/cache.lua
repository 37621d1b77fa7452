-- What a worker's prefix cache means for the groups that wait for it. Knows no counter and no lease.
-- A group is the jobs of one leaf on one context in one queue: what is held of their context is looked
-- up once for all of them. It watches the first block that its worker does not hold, so an insert
-- finds whom it concerns; that a block was evicted is seen when the group comes first.

local MOST_TRIGGERED = 64 -- by one event
local MOST_BLOCKS, MOST_WAITING = 4095, 32 -- as in policy.heat
local room = 160 -- in one call
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

-- `name` is a leaf and a context; `first` and `second` are jobs as they are named in the indexes.
function gate.load_group(queue, name)
  local key = pool .. 'group:' .. queue .. ':' .. name
  local rows = call('ZRANGE', key, 0, 2, 'WITHSCORES')
  return { key = key, name = name, matched = -1 - (rows[2] or 0), first = rows[3], second = rows[5],
    jobs = rows[5] and call('ZCARD', key) - 1 or rows[3] and 1 or 0 }
end

function gate.group_of(job) return gate.load_group(job.queue, job.leaf .. '\0' .. job.context) end

function gate.watch(verb, job, group)
  if group.matched == job.blocks then return end
  local block = gate.block_at(job, group.matched + 1)
  call(verb, pool .. 'watch:' .. job.queue .. ':' .. block, group.name)
end

local function heat_of(job, group)
  local waiting = gated and job.blocks > 0 and math.min(group.jobs, MOST_WAITING) or 1
  return math.min(group.matched, MOST_BLOCKS) * MOST_WAITING + waiting - 1
end

-- Puts a group in its leaf's order by its heat; returns the score of its first job, if it is hot.
function gate.rank(job, group, hot_before)
  local heat, key = heat_of(job, group), gate.index('hot', job.queue, gate.load_node(job.leaf), 1)
  if heat > 0 and group.jobs > 0 then
    local score = string.sub(group.first, 1, 12) - heat * 2 ^ 36
    call('ZADD', key, score, job.context)
    return score
  elseif hot_before then call('ZREM', key, job.context) end
end

-- Adds a queued job to its group. Returns the scores that it can improve.
function gate.enter(job)
  local group = gate.group_of(job)
  if group.jobs == 0 then
    group.matched, group.first = gate.match(job.queue, job), job.member
    call('ZADD', group.key, -1 - group.matched, '', job.sequence, job.member)
    gate.watch('SADD', job, group)
    if settings.attribution == 'split' then call('ZADD', gate.waiters(job), 0, job.leaf) end
  else
    call('ZADD', group.key, job.sequence, job.member)
    if job.member < group.first then group.first = job.member end
  end
  group.jobs = group.jobs + 1
  return { due = job.due, hot = gate.rank(job, group) }
end

function gate.exit(job)
  local group = gate.group_of(job)
  local hot_before = heat_of(job, group) > 0
  group.jobs = group.jobs - 1
  if group.jobs > 0 then
    call('ZREM', group.key, job.member)
    if job.member == group.first then group.first = group.second end
  else
    call('DEL', group.key)
    gate.watch('SREM', job, group)
    if settings.attribution == 'split' then call('ZREM', gate.waiters(job), job.leaf) end
  end
  gate.rank(job, group, hot_before)
end

-- Looks anew at what is held of a group's context; `job` is its first.
function gate.refresh(job, group)
  local before, matched = group.matched, gate.match(job.queue, job)
  if matched == before then return end
  gate.watch('SREM', job, group)
  group.matched = matched
  call('ZADD', group.key, -1 - matched, '')
  gate.watch('SADD', job, group)
  local came = { due = job.due, hot = gate.rank(job, group, true) }
  gate.stand(gate.load_node(job.leaf), job.queue, matched > before and came)
end

-- Looks at the groups that watched these blocks; when there are very many, at the others later.
function gate.trigger(worker, fresh)
  local keys, watch = { 'EXISTS' }, pool .. 'watch:' .. worker .. ':'
  for at = 1, #fresh do keys[at + 1] = watch .. fresh[at] end
  local watched, at = call(unpack(keys)), 2
  while watched > 0 and keys[at] do
    local most = math.min(room, MOST_TRIGGERED)
    local names = most > 0 and call('SRANDMEMBER', keys[at], most) or {}
    for _, name in ipairs(names) do
      local group = gate.load_group(worker, name)
      gate.refresh(gate.load_job(group.first), group)
    end
    local late = #names == most and call('EXISTS', keys[at]) == 1
    if late then call('SADD', pool .. 'late:' .. worker, fresh[at - 1]) end
    if late or #names > 0 then watched = watched - 1 end
    room, at = room - #names, at + 1
  end
end

-- Takes cache events from ARGV: how many blocks were inserted, those, then the evicted ones.
function gate.hear(worker, first)
  local inserted = tonumber(ARGV[first])
  if #ARGV == first and call('EXISTS', pool .. 'late:' .. worker) == 0 then return end
  local fresh = call('SPOP', pool .. 'late:' .. worker, 8)
  local function each(verb, from, to)
    for at = from, to, 1000 do
      call(verb, pool .. 'held:' .. worker, unpack(ARGV, at, math.min(to, at + 999)))
    end
  end
  each('SADD', first + 1, first + inserted)
  each('SREM', first + inserted + 1, #ARGV)
  for at = first + 1, first + inserted do fresh[#fresh + 1] = ARGV[at] end
  for at = 1, #fresh, 1000 do gate.trigger(worker, { unpack(fresh, at, math.min(#fresh, at + 999)) }) end
end

-- The rest of this batch finds the job's context held.
function gate.assume(worker, job, matched)
  local fresh = {}
  for place = matched + 1, job.blocks do
    fresh[#fresh + 1] = gate.block_at(job, place)
    assumed[fresh[#fresh]] = true
  end
  if #fresh > 0 then gate.trigger(worker, fresh) end
end

-- The job with the highest heat in a worker's queue, once nothing evicted is believed held, and the
-- match; where nothing is hot, the earliest due.
function gate.hottest(worker)
  for _ = 1, MOST_TRIGGERED do
    local job, group = gate.first_job('hot', worker)
    if not job then break end
    local believed = group.matched
    gate.refresh(job, group)
    if group.matched >= believed then return job, group.matched end
  end
  return gate.first_job('hot', worker) or gate.first_job('due', worker)
end
