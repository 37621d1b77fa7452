"""The gate's knobs, each default stated once. Knows nothing of where they are read from."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

Policy = Literal["dlpm", "vtc", "lpm", "fcfs", "hrrn"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
ATTRIBUTIONS = ("first", "split", "platform")


@dataclass(frozen=True, slots=True)
class GateSettings:
    """Shared by every process of one pool; costs and tokens are integers, times milliseconds."""

    policy: str = "dlpm"  # until `configure` names another one
    attribution: str = "first"  # who pays for a context that several tenants wait on
    quantum: int = 4096  # Q of DLPM: the most that a node of weight 1 saves up
    quantum_parts: int = 32  # refills that add up to one quantum; in the paper it is one
    worker_quantum: int = 32_768  # Q^w of D2LPM: tokens after which a tenant leaves a warm worker
    overtakes: int = 8  # picks by longest prefix after which the earliest deadline goes
    extend_weight: int = 1  # w_e: cost of one extend token
    output_weight: int = 80  # w_q: cost of one output token
    output_room: int = output_weight  # tokens of a batch's budget that one output token takes up
    lease_ms: int = 10_000
    max_attempts: int = 2  # deliveries of one job before it is answered with "worker_lost"
    max_pool_jobs: int = 10_000  # queued; tenants below an equal part may fill a quarter more
    max_pool_tokens: int = 50_000_000
    max_tenant_jobs: int = 512
    max_tenant_tokens: int = 10_000_000
    max_tenant_in_flight: int = 4_000  # queued and leased jobs together
    retry_after_ms: int = 1_000  # told to the refused while the drain rate is not known
    reply_ttl_ms: int = 60_000
    tenant_idle_ms: int = 3_600_000  # a debt-free tenant unseen for so long is forgotten
    worker_idle_ms: int = 60_000  # a worker unseen for so long is forgotten, held blocks included
    worker_silent_ms: int = (
        3_000  # one unheard for so long gets nothing new; engines call each second
    )
    pause_ms: int = 2_000  # a longer silence between two verbs does not count as time

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"policy must be one of {', '.join(POLICIES)}, not {self.policy!r}")
        if self.attribution not in ATTRIBUTIONS:
            known = ", ".join(ATTRIBUTIONS)
            raise ValueError(f"attribution must be one of {known}, not {self.attribution!r}")
        for field in fields(self):
            lowest = 0 if field.name in ("lease_ms", "output_weight", "overtakes") else 1
            value = getattr(self, field.name)
            if isinstance(value, int) and value < lowest:
                raise ValueError(f"{field.name} must be at least {lowest}, not {value}")

    @property
    def refill(self) -> int:
        """Cost that one refill adds to a node of weight 1."""
        return max(1, self.quantum // self.quantum_parts)
