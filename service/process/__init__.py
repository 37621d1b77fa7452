"""What every process does: finds Redis, opens models, watches its loops. Knows no requests."""
