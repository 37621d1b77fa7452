-- leave: a worker is gone; its leases end now and its held blocks are forgotten.
local requeued = gate.forget_worker(ARGV[1])
gate.save()
return { now, requeued }
