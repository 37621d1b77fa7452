-- leave: a worker is gone; its leases end now and its held blocks are forgotten.
local requeued = forget_worker(ARGV[1])
save()
return { now, requeued }
