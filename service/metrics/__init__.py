"""What Prometheus is shown of requests, pools and engines. Knows nothing of their causes."""
