"""Traffic against a running server, over HTTP alone. Knows nothing of how the server works."""
