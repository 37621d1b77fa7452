-- drain: nothing more is routed to the worker and its queue moves; its leases go on.
write(root, 'alive:' .. ARGV[1], 0)
save()
return { now }
