-- leave: a worker is gone; its leases end now and its held blocks are forgotten.
return { now, forget_worker(ARGV[2]) }
