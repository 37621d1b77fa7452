-- join: a fresh worker with an empty cache; what an earlier one of its name held goes back.
local requeued = forget_worker(ARGV[1])
write(root, 'alive:' .. ARGV[1], now)
save()
return { now, requeued }
