-- What a worker's prefix cache means for the jobs that wait for it. Knows no counter and no lease.
-- A job watches the first block of its context that its worker does not hold, so an insert finds
-- whom it concerns; that a block was evicted is seen when the job comes first.

local MOST_TRIGGERED = 64 -- by one event
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

function gate.watched(job) return pool .. 'watch:' .. job.queue .. ':' .. gate.block_at(job, job.matched + 1) end

-- Puts a queued job in its leaf's order by what its worker holds now. Returns its scores.
function gate.rank(job, matched)
  job.matched = matched
  if matched < job.blocks then call('SADD', gate.watched(job), job.id) end
  if matched == 0 then return { due = job.due } end
  local came = { hot = job.sequence - matched * 2 ^ 36, due = job.due }
  call('ZADD', gate.index('hot', job.queue, gate.load_node(job.leaf), 1), came.hot, job.member)
  return came
end

function gate.unrank(job)
  if job.matched < job.blocks then call('SREM', gate.watched(job), job.id) end
  if job.matched == 0 then return end
  call('ZREM', gate.index('hot', job.queue, gate.load_node(job.leaf), 1), job.member)
end

function gate.refresh(job, matched)
  local before = job.matched
  if matched == before then return end
  gate.unrank(job)
  local came = gate.rank(job, matched)
  gate.save_job(job)
  gate.stand(gate.load_node(job.leaf), job.queue, matched > before and came)
end

-- Ranks anew the jobs that watched these blocks; when there are very many, the others at later calls.
function gate.trigger(worker, fresh)
  local keys, watch = { 'EXISTS' }, pool .. 'watch:' .. worker .. ':'
  for at = 1, #fresh do keys[at + 1] = watch .. fresh[at] end
  local watched, at = call(unpack(keys)), 2
  while watched > 0 and keys[at] do
    local most = math.min(room, MOST_TRIGGERED)
    local ids = most > 0 and call('SRANDMEMBER', keys[at], most) or {}
    for _, id in ipairs(ids) do
      local job = gate.load_job(id)
      gate.refresh(job, gate.match(worker, job))
    end
    local late = #ids == most and call('EXISTS', keys[at]) == 1
    if late then call('SADD', pool .. 'late:' .. worker, fresh[at - 1]) end
    if late or #ids > 0 then watched = watched - 1 end
    room, at = room - #ids, at + 1
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

-- The job with the longest match in a worker's queue, once nothing evicted is believed held, and
-- the match; where nothing matches, the earliest due.
function gate.hottest(worker)
  for _ = 1, MOST_TRIGGERED do
    local id = gate.first_job('hot', worker)
    if not id then break end
    local job = gate.load_whole(id)
    local matched = gate.match(worker, job)
    if matched >= job.matched then return job, matched end
    gate.refresh(job, matched)
  end
  local id = gate.first_job('hot', worker) or gate.first_job('due', worker)
  return id and gate.load_whole(id)
end
