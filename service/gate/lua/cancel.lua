-- cancel: removes a queued job; a leased one stays with its worker but is never queued again.
local job = gate.find_job(ARGV[1])
local queued = job and job.epoch == 0
if queued then
  gate.stand(gate.unqueue(job), job.queue)
  gate.drop_job(job)
elseif job then
  job.cancelled = true
  gate.save_job(job)
end
gate.save()
return { now, queued and 1 or 0 }
