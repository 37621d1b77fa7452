"""How data-parallel baselines place a job, after arXiv 2501.14312, section 6.1. Knows no engine.

Each worker of a baseline has a gate of its own; a router only chooses among them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from service.gate.job import Job
from service.gate.pool import Pool

EXPLOIT_SHARE = 0.5  # of the prompt: Preble follows a match that is longer than what is left


class Router:
    """Chooses a worker by its index, one after the other: round robin, SGLang's default."""

    def __init__(self) -> None:
        self._turns: Counter[str] = Counter()

    def place(self, job: Job, gates: Sequence[Pool], names: Sequence[str]) -> int:
        """The worker of `names`, each alone at its gate, that shall serve the job."""
        turn = self._turns[self._turn_of(job)]
        self._turns[self._turn_of(job)] += 1
        return turn % len(names)

    def end(self, job: Job) -> None:
        """The job is answered."""

    def _turn_of(self, job: Job) -> str:
        return ""


class ClientRoundRobin(Router):
    """Every client has a turn of its own: fair with VTC at each worker (Theorem A.6)."""

    def _turn_of(self, job: Job) -> str:
        return job.tenant


class PrebleLike(Router):
    """Follows a long match, cached or on its way, wherever it is; else the least load in tokens."""

    def __init__(self) -> None:
        super().__init__()
        self._open: Counter[tuple[int, str]] = Counter()  # jobs by worker and context
        self._places: dict[str, int] = {}

    def place(self, job: Job, gates: Sequence[Pool], names: Sequence[str]) -> int:
        workers = range(len(names))
        matches = [self._match(worker, job, gates[worker], names[worker]) for worker in workers]
        loads = [gates[worker].fleet.loads[names[worker]] for worker in workers]
        longest = max(matches)
        follows = longest * job.block_size > EXPLOIT_SHARE * (
            job.context_tokens + job.candidate_tokens
        )
        allowed = [worker for worker in workers if not follows or matches[worker] == longest]
        choice = min(allowed, key=loads.__getitem__)
        self._open[choice, job.context_id] += 1
        self._places[job.job_id] = choice
        return choice

    def end(self, job: Job) -> None:
        key = self._places.pop(job.job_id), job.context_id
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]

    def _match(self, worker: int, job: Job, gate: Pool, name: str) -> int:
        if self._open[worker, job.context_id]:
            return len(job.context_hashes)
        return gate.fleet.belief.matched(name, job)
