-- cancel: removes queued jobs; a leased one stays with its worker but is never queued again.
local answer = { now }
for at = 1, #ARGV do
  local job = gate.find_job(ARGV[at])
  local queued = job and job.epoch == 0
  if queued then
    gate.withdraw(job)
    gate.drop_job(job)
  elseif job then
    job.cancelled = true
    gate.save_job(job)
  end
  answer[at + 1] = queued and 1 or 0
end
return answer
