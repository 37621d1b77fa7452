"""What the pool believes each worker's prefix cache holds. Knows no job's tenant and no Redis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from service.gate import policy
from service.gate.job import Job


class Belief:
    """Held blocks by worker, and the contexts on their way to each."""

    def __init__(self) -> None:
        self.held: dict[str, set[str]] = {}
        self._contexts: Counter[tuple[str, str]] = Counter()  # jobs by worker and context

    def hear(self, worker: str, inserted: Iterable[str], evicted: Iterable[str]) -> None:
        """Takes a worker's cache events."""
        held = self.held.setdefault(worker, set())
        held.update(inserted)
        held.difference_update(evicted)

    def forget(self, worker: str) -> None:
        """The worker's cache is gone."""
        self.held.pop(worker, None)

    def expect(self, worker: str, context: str, jobs: int) -> None:
        """Counts jobs with this context that were routed to the worker and have not ended."""
        self._contexts[worker, context] += jobs
        assert self._contexts[worker, context] >= 0

    def matched(self, worker: str, job: Job) -> int:
        """Blocks of the job's context that the worker holds."""
        return policy.matched_blocks(job.context_hashes, self.held.get(worker, set()))

    def expected(self, worker: str, job: Job) -> int:
        """Blocks the worker will hold once it has served what already waits for it."""
        if self._contexts[worker, job.context_id]:
            return len(job.context_hashes)
        return self.matched(worker, job)


class Batch:
    """One claim's view of a cache: what is picked counts as held for the rest of the batch."""

    def __init__(self, held: set[str]) -> None:
        self._held = held
        self._assumed: set[str] = set()
        self._blocks: dict[str, tuple[int, Job]] = {}

    def matched(self, job: Job) -> int:
        """Blocks of the job's context held or computed by this batch."""
        found = self._blocks.get(job.context_id)
        if found is None:
            found = self._blocks[job.context_id] = self._match(job), job
        return found[0]

    def matched_tokens(self, job: Job) -> int:
        """The same in tokens; the last block may be short."""
        return min(self.matched(job) * job.block_size, job.context_tokens)

    def assume(self, job: Job) -> None:
        """Counts the job's context as held."""
        fresh = set(job.context_hashes[self.matched(job) :])
        self._assumed |= fresh
        if not fresh:
            return
        for context, (blocks, other) in self._blocks.items():
            if blocks < len(other.context_hashes) and other.context_hashes[blocks] in fresh:
                self._blocks[context] = self._match(other), other

    def _match(self, job: Job) -> int:
        held, chain = self._held, job.context_hashes
        blocks = policy.matched_blocks(chain, held)
        if not self._assumed:
            return blocks
        while blocks < len(chain) and (chain[blocks] in held or chain[blocks] in self._assumed):
            blocks += 1
        return blocks
