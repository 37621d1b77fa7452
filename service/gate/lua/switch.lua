-- A switch of the policy: what waits is ranked anew a part at a time, by whoever calls next, so that a
-- switch that was cut off ends all the same. Knows no lease.

-- All that waits is unranked from now on, whatever was left by a switch before.
function gate.switch(name)
  local unranked, queues = pool .. 'unranked', {}
  root.policy, policy, gated = name, name, name == 'dlpm'
  for at, queue in ipairs(gate.fleet_with('jobs')) do queues[at] = pool .. 'deadlines:' .. queue end
  call('UNLINK', unranked)
  root.unranked = queues[1] and call('ZUNIONSTORE', unranked, #queues, unpack(queues)) or 0
end

-- Ranks and stands anew `most` of the unranked, the earliest due first.
function gate.rank_on(most)
  if root.unranked == 0 or most == 0 then return end
  local rows = call('ZPOPMIN', pool .. 'unranked', most)
  root.unranked = rows[1] and root.unranked - #rows / 2 or 0
  for at = 1, #rows, 2 do
    local job = gate.load_job(rows[at])
    if job then -- one that is leased by now may have left others behind
      gate.rank(job, gate.group_of(job), true)
      gate.stand(gate.load_node(job.leaf), true)
    end
  end
end
