"""Random histories of all the gate's verbs, with engines that crash. Knows no Redis.

A subclass may apply each verb elsewhere too, or look at the pool after each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, ClassVar

from service.gate.job import Claim, Claimed, Job, Outcome, Settlement, Verdict
from service.gate.pool import Pool
from service.gate.settings import POLICIES, GateSettings
from tests.service.gate.jobs import TREES, block_hash, path_of, random_job

WORKERS = ("worker-0", "worker-1", "worker-2")
SMALL = GateSettings(
    quantum=100,
    quantum_parts=1,
    worker_quantum=150,
    overtakes=3,
    lease_ms=12,
    max_pool_jobs=32,
    max_pool_tokens=6_000,
    max_tenant_jobs=15,
    max_tenant_in_flight=18,
    worker_idle_ms=60,
    worker_silent_ms=20,
    output_weight=2,
    output_room=2,
)


class Engine:
    """A worker's side: blocks, cache events not yet sent, and the jobs it believes it holds."""

    def __init__(self) -> None:
        self.held: set[str] = set()
        self.unsent: dict[str, bool] = {}
        self.leased: list[Claimed] = []
        self.acknowledged: int | None = None  # the last epoch that arrived

    def insert(self, job: Job) -> None:
        """Holds the context's blocks."""
        self._note(dict.fromkeys(job.context_hashes, True))

    def evict(self, random: Random) -> None:
        """Drops some leaves: like a real cache it holds prefixes only."""
        paths = {path_of(block) for block in self.held}
        leaves = paths - {path.rstrip("~")[:-1] for path in paths}
        gone = [block_hash(path) for path in sorted(leaves) if random.random() < 0.3]
        self._note(dict.fromkeys(gone, False))

    def resend(self) -> None:
        """Tells everything anew, to a pool that has forgotten it."""
        self.unsent |= dict.fromkeys(sorted(self.held), True)

    def events(self) -> dict[str, list[str]]:
        """What happened in the cache since the last call that arrived."""
        rows = self.unsent.items()
        return {
            "inserted": [block for block, held in rows if held],
            "evicted": [block for block, held in rows if not held],
        }

    def _note(self, events: dict[str, bool]) -> None:
        self.unsent |= {block: now for block, now in events.items() if now != (block in self.held)}
        self.held |= {block for block, now in events.items() if now}
        self.held -= {block for block, now in events.items() if not now}


class History:
    """Draws one event after the other; `tree` names the leaves jobs are drawn from."""

    weights: ClassVar[dict[str, float]] = {
        "submit": 45,
        "claim": 12,
        "lose_claim": 1,
        "settle": 10,
        "renew": 3,
        "cancel": 3,
        "explain": 2,
        "reap": 3,
        "crash": 0.7,
        "join": 0.7,
        "drain": 0.2,
        "configure": 0.2,
    }

    def __init__(self, seed: int, settings: GateSettings = SMALL) -> None:
        self.random, self.tree = Random(seed), TREES[seed % len(TREES)]
        self.settings, self.pool, self.now = settings, Pool(settings), 1_000
        self.jobs: dict[str, Job] = {}
        self.engines = {worker: Engine() for worker in WORKERS}

    def apply(self, verb: str, *arguments: Any, **events: Any) -> Any:
        """One verb at a later time."""
        self.now += self.random.choice([0, 0, 1, 3])
        return getattr(self.pool, verb)(*arguments, self.now, **events)

    def step(self) -> None:
        """One event."""
        [name] = self.random.choices([*self.weights], weights=[*self.weights.values()])
        event: Callable[[], None] = getattr(self, name)
        event()

    def submit(self) -> None:
        """A new job, or rarely one whose id is known."""
        job = self.draw_job()
        self.note(job, self.apply("submit", job))

    def draw_job(self) -> Job:
        """A job of the tree."""
        fresh = self.random.random() < 0.95
        number = len(self.jobs) if fresh else self.random.randrange(len(self.jobs) + 1)
        job = random_job(self.random, f"job-{number}", self.tree)
        self.jobs.setdefault(job.job_id, job)
        return job

    def note(self, job: Job, verdict: Verdict) -> None:
        """Remembers what now stands behind the job's id."""
        if verdict.answer == "queued":
            self.jobs[job.job_id] = job

    def claim(self) -> None:
        """A batch for one worker, whose cache then holds what it computed."""
        worker, claim = self._claim()
        engine = self.engines[worker]
        engine.unsent.clear()
        engine.leased += claim.jobs
        engine.acknowledged = max([engine.acknowledged or 0, *(job.epoch for job in claim.jobs)])
        for claimed in claim.jobs:
            engine.insert(self.jobs[claimed.job_id])
        if not claim.known:
            engine.resend()

    def lose_claim(self) -> None:
        """A claim whose answer never arrives; it may have said that the pool forgot the cache."""
        worker, _claim = self._claim()
        self.engines[worker].resend()

    def settle(self) -> None:
        """Some of a worker's jobs, rarely under a wrong epoch."""
        worker = self.random.choice(WORKERS)
        engine = self.engines[worker]
        batch = [engine.leased.pop() for _ in range(self.random.randrange(len(engine.leased) + 1))]
        settlements = [self._settlement(claimed) for claimed in batch]
        self.apply("settle", worker, settlements, **engine.events())
        engine.unsent.clear()

    def renew(self) -> None:
        """All that a worker believes it holds."""
        worker = self.random.choice(WORKERS)
        self.apply("renew", worker, self.engines[worker].leased)

    def cancel(self) -> None:
        """A recent job, whatever became of it."""
        self.apply("cancel", self._recent())

    def explain(self) -> None:
        """A recent job, whatever became of it."""
        self.apply("explain", self._recent())

    def reap(self) -> None:
        """The heartbeat."""
        self.apply("reap")

    def crash(self) -> None:
        """A worker known to be dead; its zombie may still settle."""
        worker = self.random.choice(WORKERS)
        self.engines[worker].held.clear()
        self.engines[worker].unsent.clear()
        self.apply("leave", worker)

    def join(self) -> None:
        """A fresh worker, maybe under the name of one that lives."""
        worker = self.random.choice(WORKERS)
        self.engines[worker] = Engine()
        self.apply("join", worker)

    def drain(self) -> None:
        """A worker that takes no more work."""
        self.apply("drain", self.random.choice(WORKERS))

    def configure(self) -> None:
        """Another policy."""
        self.apply("configure", self.random.choice(POLICIES))

    def _claim(self) -> tuple[str, Claim]:
        worker = self.random.choice(WORKERS)
        engine = self.engines[worker]
        engine.evict(self.random)
        budget, most = self.random.choice([0, 50, 400, 5_000]), self.random.randrange(9)
        knobs = {"strict": self.random.random() < 0.3, "acknowledged": engine.acknowledged}
        claim = self.apply("claim", worker, budget, most, **knobs, **engine.events())
        return worker, claim

    def _settlement(self, claimed: Claimed) -> Settlement:
        job = self.jobs[claimed.job_id]
        extend = self.random.choice(
            [0, claimed.charged // 2, claimed.charged, claimed.charged + 50]
        )
        epoch = claimed.epoch + self.random.choice([0, 0, 0, 0, 1])
        outcome = self.random.choice([Outcome.SCORED, Outcome.FAILED])
        output = self.random.randrange(job.output_tokens + 1)
        return Settlement(claimed.job_id, epoch, extend, b"\0result", outcome, output)

    def _recent(self) -> str:
        recent: Sequence[str] = [*self.jobs][-60:]
        return self.random.choice([*recent, "unknown"])
