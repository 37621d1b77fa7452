"""What passes through the gate, on every side of it. Knows nothing of Redis or of payloads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Job:
    """The unit the gate orders: one request, or one chunk of a large slate."""

    job_id: str
    tenant: str
    weight: int
    context_hashes: tuple[str, ...]  # chain, one per block, the last block may be short
    block_size: int  # tokens per block
    context_tokens: int
    candidate_tokens: int
    deadline_ms: int  # budget from submit on, by Redis' clock
    reply_to: str  # name of the reply list the API process reads
    payload: bytes

    def __post_init__(self) -> None:
        if self.weight < 1 or self.block_size < 1:
            raise ValueError("weight and block_size must be at least 1")
        if min(self.context_tokens, self.candidate_tokens) < 0:
            raise ValueError("token counts must not be negative")
        if len(self.context_hashes) != -(-self.context_tokens // self.block_size):
            raise ValueError("context_hashes needs one hash for each started block of the context")
        if len({len(block) for block in self.context_hashes}) > 1:
            raise ValueError("context_hashes must all have the same length")
        if not self.job_id or "\0" in self.job_id:
            raise ValueError("job_id must not be empty and must not contain NUL")

    @property
    def context_id(self) -> str:
        """Names the whole context: the chain's last hash covers all blocks before it."""
        return self.context_hashes[-1] if self.context_hashes else ""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job a worker holds under a lease; `epoch` fences off every earlier holder."""

    job_id: str
    epoch: int
    payload: bytes
    reply_to: str
    charged: int  # tokens taken from the tenant's deficit
    cached_tokens_believed: int
    queue_ms: int  # from submit to this claim


@dataclass(frozen=True, slots=True)
class Claim:
    """Answer to one claim: jobs in DLPM order, and how many were dropped as past their deadline."""

    jobs: tuple[Claimed, ...]
    expired: int
    now_ms: int  # Redis' clock at the decision


class Outcome(StrEnum):
    """How a job ended."""

    SCORED = "scored"
    FAILED = "failed"  # the worker settled it with an error result
    DEADLINE = "deadline"  # dropped from the queue, never scored
    WORKER_LOST = "worker_lost"  # max_attempts leases ran out


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a worker reports for one claimed job."""

    job_id: str
    epoch: int
    extend_tokens: int  # actually computed; settle refunds charged - extend_tokens, never charges
    result: bytes
    outcome: Outcome = Outcome.SCORED


@dataclass(frozen=True, slots=True)
class Reply:
    """What the API process gets back for one job; `result` is empty unless a worker settled it."""

    job_id: str
    outcome: Outcome
    result: bytes


@dataclass(frozen=True, slots=True)
class Reaped:
    """What one reap did; `paused_ms` > 0 says leases were extended instead."""

    requeued: int
    lost: int
    expired: int
    paused_ms: int
    now_ms: int


@dataclass(frozen=True, slots=True)
class TenantStats:
    """One tenant's standing; `service` is the total of charges less refunds, in tokens."""

    deficit: int
    weight: int
    queued_jobs: int
    queued_tokens: int
    leased_jobs: int
    service: int


@dataclass(frozen=True, slots=True)
class GateStats:
    """A snapshot of one pool; `workers` maps names to milliseconds since they were last seen."""

    queued_jobs: int
    queued_tokens: int
    leased_jobs: int
    round: int
    now_ms: int
    tenants: Mapping[str, TenantStats] = field(default_factory=dict)
    workers: Mapping[str, int] = field(default_factory=dict)
