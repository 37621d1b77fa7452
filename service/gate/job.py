"""What passes through the gate, on every side of it. Knows nothing of Redis or of payloads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Level:
    """One step of a job's way down the weighted tree: a class, organisation, tenant or user."""

    name: str
    weight: int = 1

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or "\0" in self.name:
            raise ValueError(f"level {self.name!r} must not be empty and must not contain / or NUL")
        if self.weight < 1:
            raise ValueError(f"level {self.name!r} needs a weight of at least 1")


def tenant_id(path: Sequence[Level], tenant_level: int) -> str:
    """Id of the tenant's node on a path."""
    return "/".join(level.name for level in path[: tenant_level + 1])


@dataclass(frozen=True, slots=True)
class Job:
    """The unit the gate orders: one request, or one chunk of a large slate."""

    job_id: str
    path: tuple[Level, ...]  # from the top of the tree down to whoever the job is charged to
    tenant_level: int  # index in `path` of the tenant: caps and routing credit are per tenant
    context_hashes: tuple[str, ...]  # chain, one per block, the last block may be short
    block_size: int  # tokens per block
    context_tokens: int
    candidate_tokens: int
    deadline_ms: int  # budget from submit on, by the pool's clock
    reply_to: str  # name of the reply list the API process reads
    payload: bytes
    output_tokens: int = 0  # the most the job may generate

    def __post_init__(self) -> None:
        if not 0 <= self.tenant_level < len(self.path):
            raise ValueError("tenant_level must be the index of one of the path's levels")
        if self.block_size < 1:
            raise ValueError("block_size must be at least 1")
        if min(self.context_tokens, self.candidate_tokens, self.output_tokens) < 0:
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

    @property
    def tenant(self) -> str:
        """Name of the tenant."""
        return self.path[self.tenant_level].name

    @property
    def leaf(self) -> str:
        """Id of the node that the job waits under."""
        return "/".join(level.name for level in self.path)

    @property
    def tenant_id(self) -> str:
        """Id of the tenant's node."""
        return tenant_id(self.path, self.tenant_level)

    @property
    def tokens(self) -> int:
        """Most tokens the job can hold: context, candidates and output."""
        return self.context_tokens + self.candidate_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Verdict:
    """Answer to one submit: queued, known, or why not and when it may be worth trying again."""

    answer: str
    retry_after_ms: int = 0


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job a worker holds under a lease; `epoch` fences off every earlier holder."""

    job_id: str
    epoch: int
    payload: bytes
    reply_to: str
    charged: int  # cost reserved for it, whoever pays
    cached_tokens_believed: int
    queue_ms: int  # from submit to this claim


@dataclass(frozen=True, slots=True)
class Claim:
    """Answer to one claim: jobs in the policy's order; `known` is False for a forgotten worker."""

    jobs: tuple[Claimed, ...]
    expired: int  # jobs dropped as past their deadline
    now_ms: int  # the pool's clock at the decision
    known: bool = True


class Outcome(StrEnum):
    """How a job ended."""

    SCORED = "scored"
    FAILED = "failed"  # the worker settled it with an error result
    DEADLINE = "deadline"  # dropped from the queue, never scored
    WORKER_LOST = "worker_lost"  # max_attempts leases ran out


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a worker reports for one claimed job; settle refunds what was not used."""

    job_id: str
    epoch: int
    extend_tokens: int  # actually computed
    result: bytes
    outcome: Outcome = Outcome.SCORED
    output_tokens: int = 0  # actually generated


@dataclass(frozen=True, slots=True)
class Reply:
    """What the API process gets back for one job; `result` is empty unless a worker settled it."""

    job_id: str
    outcome: Outcome
    result: bytes


@dataclass(frozen=True, slots=True)
class Reaped:
    """What one reap did."""

    requeued: int
    lost: int
    expired: int
    now_ms: int


@dataclass(frozen=True, slots=True)
class NodeStats:
    """One node's standing; `service` is the total of charges less refunds."""

    deficit: int
    weight: int
    queued_jobs: int
    queued_tokens: int
    leased_jobs: int
    service: int


@dataclass(frozen=True, slots=True)
class GateStats:
    """A snapshot of one pool; `workers` maps names to milliseconds since they were last seen."""

    policy: str
    queued_jobs: int
    queued_tokens: int
    leased_jobs: int
    round: int  # refills among the top level's nodes
    service: int
    platform: int  # cost the platform bore for shared contexts
    uncharged: int  # cost above what was reserved: belief had blocks that were gone by then
    drain_rate: int  # tokens per second, a moving average
    now_ms: int
    nodes: Mapping[str, NodeStats] = field(default_factory=dict)
    workers: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LevelStanding:
    """One level of a waiting job: its node's counter, and who else waits beside it."""

    node: str
    deficit: int
    weight: int
    rounds: int  # refills until the counter is positive
    rivals: int  # waiting siblings
    rival_weight: int  # sum of their weights


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a job waits, and the cost after which it is served at the latest."""

    state: str  # queued, leased, answered or unknown
    worker: str = ""  # whose queue it is in, or who holds it
    queue_ms: int = 0
    deadline_in_ms: int = 0
    due_before: int = 0  # jobs of the same queue with an earlier deadline
    matched_blocks: int = 0
    levels: tuple[LevelStanding, ...] = ()
    queued_cost: int = 0  # at most, of all that waits in the pool
    largest_cost: int = 0  # U' so far
    drain_rate: int = 0
    bound: int = 0  # cost served at most before it is claimed; see policy.wait_bound
