-- explain: where a job stands and what stands before it.
local job, levels = gate.find_job(ARGV[1]), {}
local answer = { now, 'unknown' }
if job and job.epoch > 0 then
  answer = { now, 'leased', job.worker, now - job.submitted_at, job.due - now }
elseif job then
  for node in gate.up, gate.load_node(job.leaf) do
    local rivals = call('ZCARD', pool .. 'waiting:' .. node.parent.id) - 1
    table.insert(levels, 1, { node.id, node.deficit, node.weight, gate.rounds_owed(node), rivals,
      node.parent.waiting_weight - node.weight })
  end
  answer = { now, 'queued', job.queue, now - job.submitted_at, job.due - now,
    call('ZRANK', pool .. 'deadlines:' .. job.queue, job.member), gate.match(job.queue, job), levels,
    root.tokens * math.max(settings.extend_weight, settings.output_weight) + root.jobs,
    root.largest_cost, root.drain_rate, settings.quantum, settings.refill, settings.overtakes }
end
nodes = { [''] = root } -- the others were only read
return answer
