-- renew: starts leases anew for the worker that holds them, and shows that it lives.
local answer = { now }
if fleet[ARGV[1]] and fleet[ARGV[1]].alive ~= 0 then fleet[ARGV[1]].alive = now end
for at = 2, #ARGV, 2 do
  local job = gate.find_job(ARGV[at], ARGV[at + 1])
  if job then call('ZADD', pool .. 'leases', now + settings.lease_ms, job.id) end
  answer[#answer + 1] = job and 1 or 0
end
return answer
