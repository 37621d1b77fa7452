-- reap: the pool's heartbeat; ends expired leases, answers overdue jobs, forgets who is idle.
for _, id in ipairs(call('ZRANGEBYSCORE', pool .. 'leases', '-inf', now, 'LIMIT', 0, 256)) do
  gate.release(gate.find_job(id))
end
for _, name in ipairs(gate.fleet_with('alive')) do
  if fleet[name].alive <= now - settings.worker_idle_ms then gate.forget_worker(name) end
end
gate.adopt(256)
gate.rank_on(256)
gate.expire_overdue(256)

local span = now - root.rated_at
if span >= 1000 then
  local rate, before = math.floor(1000 * root.drained / span), root.drain_rate
  if root.jobs > 0 or rate > before then -- while nobody waits, a low one says only that little came
    root.drain_rate = before > 0 and math.floor((3 * before + rate) / 4) or rate
  end
  root.drained, root.rated_at = 0, now
end
return { now, fates.requeued, fates.lost, fates.deadline }
