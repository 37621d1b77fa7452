-- settle: publishes results once per lease and refunds what was charged above the actual tokens.
local answer = { now }
for index = 2, #ARGV, 5 do
  local job = load_job(ARGV[index])
  local current = job ~= nil and job.epoch == tonumber(ARGV[index + 1])
  if current then
    local actual = math.max(1, tonumber(ARGV[index + 2]))
    end_lease(job, math.max(0, job.charged - actual))
    reply(job, ARGV[index + 3], ARGV[index + 4])
    remove_job(job)
  end
  answer[#answer + 1] = current and 1 or 0
end
return answer
