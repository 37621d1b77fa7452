"""How data-parallel baselines place a job, after arXiv 2501.14312, section 6.1. Knows no engine.

Each worker of a baseline has a gate of its own; a router only chooses among them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from service.gate.job import Job
from service.gate.pool import Pool

EXPLOIT_SHARE = 0.5  # of the prompt: Preble follows a match that is longer than what is left


class Router(Protocol):
    """Chooses a worker by its index."""

    def __call__(self, job: Job, gates: Sequence[Pool], names: Sequence[str]) -> int:
        """The worker of `names`, each alone at its gate, that shall serve the job."""
        ...


class RoundRobin:
    """One job after the other: SGLang's default."""

    def __init__(self) -> None:
        self._turn = -1

    def __call__(self, job: Job, gates: Sequence[Pool], names: Sequence[str]) -> int:
        self._turn += 1
        return self._turn % len(names)


class ClientRoundRobin:
    """Every client has a turn of its own: fair with VTC at each worker (Theorem A.6)."""

    def __init__(self) -> None:
        self._turns: Counter[str] = Counter()

    def __call__(self, job: Job, gates: Sequence[Pool], names: Sequence[str]) -> int:
        self._turns[job.tenant] += 1
        return (self._turns[job.tenant] - 1) % len(names)


class PrebleLike:
    """Follows a long match wherever it is, else the least load in tokens; knows no client."""

    def __call__(self, job: Job, gates: Sequence[Pool], names: Sequence[str]) -> int:
        pairs = list(enumerate(zip(gates, names, strict=True)))
        matches = [gate.fleet.belief.expected(name, job) for _, (gate, name) in pairs]
        loads = [gate.fleet.loads[name] for _, (gate, name) in pairs]
        longest = max(matches)
        if longest * job.block_size > EXPLOIT_SHARE * (job.context_tokens + job.candidate_tokens):
            return min((i for i, _ in pairs if matches[i] == longest), key=loads.__getitem__)
        return loads.index(min(loads))
