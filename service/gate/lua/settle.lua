-- settle: answers each job whose epoch is current and refunds what was reserved above its use.
local worker, count = ARGV[1], tonumber(ARGV[2])
local answer = { now }

local function settle(job, extend_tokens, output_tokens, outcome, result)
  local used = gate.cost(extend_tokens, output_tokens)
  if used > job.charged then root.uncharged = root.uncharged + (used - job.charged) end
  root.drained = root.drained + job.tokens
  if used < job.charged then gate.refund(job, job.charged - used) end
  gate.end_lease(job)
  gate.reply(job, outcome, result)
end

if fleet[worker] and fleet[worker].alive ~= 0 then gate.hear(worker, 3 + 6 * count) end
for at = 3, 2 + 6 * count, 6 do
  local job = gate.find_job(ARGV[at], ARGV[at + 1])
  if job then
    settle(job, tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), ARGV[at + 4], ARGV[at + 5])
  end
  answer[#answer + 1] = job and 1 or 0
end
return answer
