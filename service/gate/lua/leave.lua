-- leave: a worker is gone; its leases end now and its held blocks are forgotten.
gate.forget_worker(ARGV[1])
return { now, fates.requeued }
