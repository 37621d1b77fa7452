-- configure: switches the policy, then ranks and stands anew a part of one queue's jobs. Called with
-- the answer's cursor until it is 0, for every queue that it names.
local queue = ARGV[2]
root.policy, policy, gated = ARGV[1], ARGV[1], ARGV[1] == 'dlpm'
local page = call('ZSCAN', pool .. 'deadlines:' .. queue, ARGV[3], 'COUNT', 32)
for at = 1, #page[2], 2 do
  local job = gate.load_job(page[2][at])
  gate.rank(job, gate.group_of(job), true)
  gate.stand(gate.load_node(job.leaf), true)
end
return { now, page[1], gate.fleet_with('jobs') }
