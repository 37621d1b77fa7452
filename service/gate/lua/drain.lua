-- drain: nothing more is routed to the worker and its queue moves; its leases go on.
gate.of_fleet(ARGV[1]).alive = 0
gate.save()
return { now }
