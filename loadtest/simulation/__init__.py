"""An event-driven engine around the gate's own policy code. Knows no Redis, HTTP or real clock."""
