-- join: a fresh worker with an empty cache; what an earlier one of its name held goes back.
local requeued = gate.forget_worker(ARGV[1])
gate.of_fleet(ARGV[1]).alive = now
gate.save()
return { now, requeued }
