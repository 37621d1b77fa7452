"""The gate's knobs, each default stated once. Knows nothing of where they are read from."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class GateSettings:
    """Shared by every process of one pool; tokens count extend tokens, times are milliseconds."""

    quantum: int = 2048  # Q of DLPM: tokens one refill adds to a tenant of weight 1
    overtakes: int = 8  # places behind its turn at which a job goes before all with warm contexts
    lease_ms: int = 10_000
    max_attempts: int = 2  # deliveries of one job before it is answered with "worker_lost"
    max_pool_jobs: int = 10_000
    max_pool_tokens: int = 50_000_000
    max_tenant_jobs: int = 2_000
    max_tenant_tokens: int = 10_000_000
    retry_after_ms: int = 1_000
    reply_ttl_ms: int = 60_000
    tenant_idle_ms: int = 3_600_000  # a debt-free tenant unseen for so long is forgotten
    worker_idle_ms: int = 60_000  # a worker unseen for so long is forgotten, held blocks included
    pause_ms: int = 2_000  # a heartbeat gap above this extends leases instead of reaping them

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1 and field.name != "lease_ms":
                raise ValueError(f"{field.name} must be at least 1, raise it")
        if self.lease_ms < 0:
            raise ValueError("lease_ms must not be negative")
