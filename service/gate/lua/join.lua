-- join: a fresh worker with an empty cache; what an earlier one of its name held goes back.
local requeued = forget_worker(ARGV[2])
call('ZADD', pool .. 'workers', now, ARGV[2])
return { now, requeued }
