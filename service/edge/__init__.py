"""HTTP: connections, limits, routes, refusals, events. Knows nothing of what is worked on."""
