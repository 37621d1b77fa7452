-- cancel: removes a queued job; a leased one stays with its worker but is never queued again.
local job = load_job(ARGV[2])
if not job then return { now, 0 } end
if job.epoch > 0 then
  call('HSET', pool .. 'job:' .. job.id, 'cancelled', 1)
  return { now, 0 }
end
dequeue(job)
remove_job(job)
return { now, 1 }
