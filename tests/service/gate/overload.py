"""Keeps leaves of a pool backlogged and serves them from one worker. Knows no policy, no Redis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

from service.gate.job import Claim, Claimed, Settlement
from service.gate.pool import Pool
from service.gate.settings import GateSettings
from tests.service.gate.jobs import BLOCK_SIZE, build_job

WORKER = "worker"
LARGEST_CANDIDATES = 300
LARGEST_COST = 3 * BLOCK_SIZE + LARGEST_CANDIDATES
NO_CAPS = GateSettings(
    max_pool_jobs=10**9,
    max_pool_tokens=10**12,
    max_tenant_jobs=10**9,
    max_tenant_tokens=10**12,
    max_tenant_in_flight=10**9,
)


class Overload:
    """More work than the worker takes, from every leaf at once; sizes and contexts are random."""

    def __init__(self, settings: GateSettings, leaves: Sequence[str], seed: int = 0) -> None:
        self.pool, self.leaves, self.random = Pool(settings), leaves, Random(seed)
        self.now = 1_000
        self.waiting: Counter[str] = Counter()
        self.owners: dict[str, str] = {}  # leaf by job
        self.in_flight: list[Claimed] = []
        self.pool.join(WORKER, self.now)

    def submit(self, leaf: str) -> str:
        """One more job of a leaf; returns its id."""
        job = build_job(
            f"job-{len(self.owners)}",
            leaf,
            self.random.choice(["", "a", "ab", "xyz"]),
            candidate_tokens=self.random.randrange(1, LARGEST_CANDIDATES + 1),
        )
        assert self.pool.submit(job, self.now).answer == "queued"
        self.waiting[leaf] += 1
        self.owners[job.job_id] = leaf
        return job.job_id

    def top_up(self, depth: int) -> None:
        """Lets `depth` jobs of every leaf wait."""
        for leaf in self.leaves:
            while self.waiting[leaf] < depth:
                self.submit(leaf)

    def claim(self, budget: int = 900, most: int = 4) -> Claim:
        """One batch, which is in flight then."""
        self.now += 1
        claim = self.pool.claim(WORKER, budget, most, self.now)
        self.in_flight += claim.jobs
        self.waiting.subtract(self.owners[claimed.job_id] for claimed in claim.jobs)
        return claim

    def settle(self, most_left: int, used: Callable[[Claimed], int] | None = None) -> None:
        """Ends jobs in flight, drawn at random, at the cost that was reserved unless told."""
        while len(self.in_flight) > most_left:
            claimed = self.in_flight.pop(self.random.randrange(len(self.in_flight)))
            cost = used(claimed) if used else claimed.charged
            settlement = Settlement(claimed.job_id, claimed.epoch, cost, b"")
            assert self.pool.settle(WORKER, [settlement], self.now) == [True]

    def serve(self, steps: int, depth: int = 5) -> None:
        """Backlogged all the time, `steps` batches one after the other."""
        for _ in range(steps):
            self.top_up(depth)
            self.claim()
            self.settle(0)

    def service(self, node: str) -> int:
        """Cost served so far to a node of the tree."""
        return self.pool.nodes[node].service
