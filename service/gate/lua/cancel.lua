-- cancel: removes a queued job; a leased one stays with its worker but is never queued again.
local job = load_job(ARGV[1])
local queued = job and job.epoch == 0
if queued then
  unqueue(job)
  stand(load_node(job.leaf), job.queue)
  expect(job)
  call('DEL', pool .. 'job:' .. job.id)
elseif job then
  job.cancelled = 1
  save_job(job)
end
save()
return { now, queued and 1 or 0 }
