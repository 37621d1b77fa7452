-- renew: starts leases anew for the worker that holds them, and shows that it lives.
local answer = { now }
call('ZADD', pool .. 'workers', now, ARGV[2])
for index = 3, #ARGV, 2 do
  local job = load_job(ARGV[index])
  local current = job ~= nil and job.epoch == tonumber(ARGV[index + 1])
  if current then call('ZADD', pool .. 'leases', now + settings.lease_ms, job.id) end
  answer[#answer + 1] = current and 1 or 0
end
return answer
