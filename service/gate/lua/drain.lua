-- drain: nothing more is routed to the worker and its queue moves; its leases go on.
local worker = gate.of_fleet(ARGV[1])
worker.alive, worker.streak = 0, 0
return { now }
