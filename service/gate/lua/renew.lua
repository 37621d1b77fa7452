-- renew: starts leases anew for the worker that holds them, and shows that it lives.
local answer = { now }
if root['alive:' .. ARGV[1]] ~= 0 then write(root, 'alive:' .. ARGV[1], now) end
for at = 2, #ARGV, 2 do
  local job = load_job(ARGV[at])
  local current = job ~= nil and job.epoch == tonumber(ARGV[at + 1])
  if current then call('ZADD', pool .. 'leases', now + settings.lease_ms, job.id) end
  answer[#answer + 1] = current and 1 or 0
end
save()
return answer
