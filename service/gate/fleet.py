"""The pool's workers: who lives, what each has to do, and D2LPM's routing among them.

Knows no lease's end, no charge and no Redis.
"""

from __future__ import annotations

import math
from collections import Counter

from service.gate import policy
from service.gate.belief import Belief
from service.gate.queues import Entry
from service.gate.tree import Node


class Fleet:
    """Workers by name with their loads; "" is the queue of jobs that came when there was none."""

    def __init__(self, worker_quantum: int) -> None:
        self.workers: dict[str, int] = {}  # when last seen, in milliseconds
        self.belief = Belief()
        self.loads: Counter[str] = Counter()  # tokens queued and leased
        self.busy: Counter[str] = Counter()  # jobs leased
        self.silent_before = -math.inf  # whoever was not seen since then may be dead
        self._worker_quantum = worker_quantum

    def route(self, entry: Entry, tenant: Node) -> str:
        """The worker a job should wait for; charges the tenant's credit there."""
        job, workers = entry.job, self._awake()
        if len(workers) < 2:
            return workers[0] if workers else ""
        matches = {worker: self.belief.expected(worker, job) for worker in workers}
        credits = {worker: tenant.credits.get(worker, 0) for worker in workers}
        tokens = job.context_tokens + job.candidate_tokens
        choice, after = policy.route(matches, credits, self.loads, tokens, self._worker_quantum)
        tenant.credits = after
        entry.expected = choice
        self.belief.expect(choice, job.context_id, 1)
        return choice

    def unexpect(self, entry: Entry) -> None:
        """The job ended or goes elsewhere: it no longer promises its context to a worker."""
        if entry.expected:
            self.belief.expect(entry.expected, entry.job.context_id, -1)
        entry.expected = ""

    def count_queued(self, entry: Entry, jobs: int) -> None:
        """Counts an entry into its queue (1) or out of it (-1)."""
        self.loads[entry.queue] += jobs * entry.job.tokens

    def count_leased(self, entry: Entry, jobs: int) -> None:
        """Counts an entry into its worker's hands (1) or out of them (-1)."""
        self.loads[entry.worker] += jobs * entry.job.tokens
        self.busy[entry.worker] += jobs

    def see(self, worker: str, now: int) -> None:
        """Notes that a known worker lives."""
        if worker in self.workers:
            self.workers[worker] = now

    def idles(self, worker: str) -> bool:
        """Whether a worker was heard lately and has nothing to do."""
        return self.workers.get(worker, -math.inf) > self.silent_before and not self.busy[worker]

    def idle(self, limit: int) -> list[str]:
        """Workers not seen since `limit`, by name."""
        return sorted(name for name, seen in self.workers.items() if seen <= limit)

    def dismiss(self, worker: str) -> None:
        """Forgets a worker and its cache; its queue stays until it is adopted."""
        self.workers.pop(worker, None)
        self.belief.forget(worker)

    def _awake(self) -> list[str]:
        """Workers heard lately; all of them when nobody was, for nobody knows better then."""
        awake = [name for name, seen in self.workers.items() if seen > self.silent_before]
        return sorted(awake or self.workers)
