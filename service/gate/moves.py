"""The steps of the in-memory gate: queue, lease, release, answer, adopt, steal. Knows no Redis.

`Pool` in pool.py makes the verbs of them; `now` is the pool's clock in milliseconds.
"""

from __future__ import annotations

from collections import Counter

from service.gate.belief import Batch
from service.gate.fleet import Fleet
from service.gate.job import Claimed, Outcome, Reply, Settlement
from service.gate.ledger import Ledger
from service.gate.queues import Entry, Pick, Queues, choose, earliest
from service.gate.settings import GateSettings
from service.gate.tree import Node, Tree

EXPIRED_PER_CLAIM = 64
EXPIRED_PER_REAP = 256
RATE_SPAN_MS = 1_000


class Moves:
    """The state of one pool and the steps its verbs are made of."""

    def __init__(self, settings: GateSettings) -> None:
        self.settings = settings
        self.ledger = Ledger(settings)
        self.fleet = Fleet(settings.worker_quantum)
        self.queues = Queues()
        self.entries: dict[str, Entry] = {}
        self.replies: list[Reply] = []
        self.drain_rate = 0  # tokens per second
        self._streaks: Counter[str] = Counter()  # picks by prefix in a row, by worker
        self._drained = self._rated_at = self._sequence = self._epoch = self._skew = 0
        self._last: int | None = None

    @property
    def _tree(self) -> Tree:
        return self.ledger.tree

    @property
    def nodes(self) -> dict[str, Node]:
        """The weighted tree's nodes by id; "" is the root."""
        return self.ledger.tree.nodes

    def _next(self, worker: str, batch: Batch) -> Pick | None:
        leaves, streak = self._tree.eligible_leaves(), self._streaks[worker]
        groups = self.queues.groups(worker, leaves)
        if groups:
            return choose(groups, batch, self._tree, streak, self.settings.overtakes)
        stolen = self._steal(worker, leaves)
        return (stolen, None) if stolen else None

    def _count_pick(self, worker: str, leaf: Node, by_prefix: bool | None) -> None:
        """A pick by deadline ends both rows: the worker's and that of the leaf there."""
        if by_prefix is not None:
            for streaks in (self._streaks, leaf.streaks):
                streaks[worker] = streaks[worker] + 1 if by_prefix else 0

    def _steal(self, worker: str, leaves: set[str]) -> Entry | None:
        """The earliest due of the longest queue whose owner cannot serve it right now.

        Idle owners are left alone unless what waits elsewhere is held back by their jobs.
        """
        names, fleet = self.queues.names(), self.fleet
        idle = [name for name in names if fleet.idles(name) and name != worker]
        victims = [
            (name in idle, -fleet.loads[name], name, heads)
            for name in (names if len(idle) < len(names) else [])
            if name != worker
            for heads in [self.queues.groups(name, leaves)]
            if heads
        ]
        return earliest(min(victims, key=lambda victim: victim[:3])[3]) if victims else None

    def _enqueue(self, entry: Entry, queue: str | None = None) -> None:
        tenant = self.nodes[entry.job.tenant_id]
        entry.queue = self.fleet.route(entry, tenant) if queue is None else queue
        self.queues.add(entry)
        self.fleet.count_queued(entry, 1)
        self._tree.enqueue(entry.leaf, 1, entry.job.tokens)

    def _unqueue(self, entry: Entry) -> None:
        self.queues.remove(entry)
        self.fleet.count_queued(entry, -1)
        self._tree.enqueue(entry.leaf, -1, -entry.job.tokens)

    def _lease(self, entry: Entry, worker: str, batch: Batch, now: int, time: int) -> Claimed:
        job, cached = entry.job, batch.matched_tokens(entry.job)
        self._tree.refill(entry.leaf)
        sharers = self.queues.sharers(entry.queue, job.context_id)
        self._unqueue(entry)
        batch.assume(job)
        self._epoch = max(self._epoch + 1, time * 1_000)
        entry.epoch, entry.worker = self._epoch, worker
        entry.attempts += 1
        entry.lease_ends_at = now + self.settings.lease_ms
        self._count_leased(entry, 1)
        others = [leaf for leaf in sharers if leaf != entry.leaf.id]
        self.ledger.reserve(entry, job.context_tokens - cached, others)
        return Claimed(
            job_id=job.job_id,
            epoch=entry.epoch,
            payload=job.payload,
            reply_to=job.reply_to,
            charged=entry.charged,
            cached_tokens_believed=cached,
            queue_ms=now - entry.submitted_at,
        )

    def _count_leased(self, entry: Entry, jobs: int) -> None:
        self.fleet.count_leased(entry, jobs)
        for node in (*entry.leaf.lineage(), self._tree.root):
            node.leased += jobs

    def _current(self, job_id: str, epoch: int) -> Entry | None:
        entry = self.entries.get(job_id)
        return entry if entry is not None and entry.epoch == epoch else None

    def _settle(self, item: Settlement) -> bool:
        entry = self._current(item.job_id, item.epoch)
        if entry is None:
            return False
        self._drained += entry.job.tokens
        self.ledger.reconcile(entry, item.extend_tokens, item.output_tokens)
        self._end_lease(entry)
        self._reply(entry, item.outcome, item.result)
        return True

    def _end_lease(self, entry: Entry) -> None:
        self._count_leased(entry, -1)
        entry.epoch, entry.worker, entry.charged, entry.payers = 0, "", 0, []

    def _release(self, entry: Entry) -> str:
        self.ledger.refund(entry, entry.charged)
        self._end_lease(entry)
        self.fleet.unexpect(entry)
        if entry.cancelled:
            del self.entries[entry.job.job_id]
            return "cancelled"
        if entry.attempts >= self.settings.max_attempts:
            self._reply(entry, Outcome.WORKER_LOST)
            return "lost"
        self._enqueue(entry)
        return "requeued"

    def _take_back(self, worker: str, acknowledged: int | None) -> None:
        for entry in self._leases() if acknowledged is not None else []:
            if entry.worker == worker and entry.epoch > (acknowledged or 0):
                entry.attempts -= 1  # it was never handed out
                self._release(entry)

    def _forget_worker(self, worker: str) -> int:
        self.fleet.dismiss(worker)
        self._streaks.pop(worker, None)
        mine = [entry for entry in self._leases() if entry.worker == worker]
        return [self._release(entry) for entry in mine].count("requeued")

    def _leases(self) -> list[Entry]:
        leased = [entry for entry in self.entries.values() if entry.epoch]
        return sorted(leased, key=lambda entry: (entry.lease_ends_at, entry.job.job_id))

    def _adopt(self, limit: int) -> None:
        """Moves jobs from queues whose worker is gone to workers that live."""
        workers = self.fleet.workers
        for name in self.queues.names() if workers else []:
            if name not in workers and limit > 0:
                orphans = self.queues.by_deadline(name)[:limit]
                limit -= len(orphans)
                for entry in orphans:
                    self._unqueue(entry)
                    self.fleet.unexpect(entry)
                    self._enqueue(entry)

    def _expire_overdue(self, now: int, most: int) -> int:
        queued = (one for name in self.queues.names() for one in self.queues.by_deadline(name))
        overdue = [entry for entry in queued if entry.due <= now][:most]
        for entry in overdue:
            self._expire(entry)
        return len(overdue)

    def _expire(self, entry: Entry) -> None:
        self._unqueue(entry)
        self._reply(entry, Outcome.DEADLINE)

    def _reply(self, entry: Entry, outcome: Outcome, result: bytes = b"") -> None:
        self.replies.append(Reply(entry.job.job_id, outcome, result))
        self.fleet.unexpect(entry)
        del self.entries[entry.job.job_id]

    def _measure_rate(self, now: int) -> None:
        span = now - self._rated_at
        if span >= RATE_SPAN_MS:
            rate = 1_000 * self._drained // span
            if self._tree.root.jobs or rate > self.drain_rate:  # else little came, no more
                self.drain_rate = (3 * self.drain_rate + rate) // 4 if self.drain_rate else rate
            self._drained, self._rated_at = 0, now
