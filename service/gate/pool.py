"""What every verb of the gate means, in plain Python. Knows no Redis: it is what Lua is held to.

Deterministic and without a clock: every verb is told Redis' time in milliseconds. Slow where that
is clear: a claim looks at every waiting context. The simulator serves from it too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from service.gate import policy
from service.gate.belief import Batch
from service.gate.job import Claim, Claimed, Explanation, Job, Reaped, Settlement, Verdict
from service.gate.moves import EXPIRED_PER_CLAIM, EXPIRED_PER_REAP, Moves
from service.gate.queues import Entry
from service.gate.tree import Node

ADOPTED_PER_CLAIM = 16
ADOPTED_PER_REAP = 256
NOBODY = Node("", None)  # of a tenant that never sent a job


class Pool(Moves):
    """Everything the gate knows about one pool, and its verbs."""

    def submit(self, job: Job, time: int, worker: str | None = None) -> Verdict:
        """Queues a job, by D2LPM unless `worker` is given, or says why not."""
        now = self._tick(time)
        refusal = self._refusal(job)
        if refusal:
            return self._refused(refusal, job)
        self._sequence += 1
        leaf, root = self._tree.leaf(job.path), self._tree.root
        entry = Entry(job, leaf, self._sequence, now, now + job.deadline_ms, root.service)
        self.entries[job.job_id] = entry
        self.ledger.expect(job)
        self._enqueue(entry, worker)
        return Verdict("queued")

    def claim(
        self,
        worker: str,
        token_budget: int,
        max_jobs: int,
        time: int,
        inserted: Iterable[str] = (),
        evicted: Iterable[str] = (),
        *,
        strict: bool = False,
        acknowledged: int | None = None,
    ) -> Claim:
        """Leases the next jobs within `token_budget` extend tokens.

        An output token takes up `output_room` of them. The first job may exceed the budget unless
        `strict`. Leases with an epoch above `acknowledged` were in an answer that never arrived:
        they are given back first.
        """
        now = self._tick(time)
        known = worker in self.fleet.workers
        self.fleet.workers[worker] = now
        if not known:  # a part of its events would tell of chains without their front
            self.fleet.belief.forget(worker)
        self.fleet.belief.hear(worker, inserted if known else (), evicted if known else ())
        self._take_back(worker, acknowledged)
        self._adopt(ADOPTED_PER_CLAIM)
        expired = self._expire_overdue(now, EXPIRED_PER_CLAIM)
        batch, room = Batch(self.fleet.belief.held[worker]), token_budget
        jobs: list[Claimed] = []
        while len(jobs) < max_jobs:
            chosen = self._next(worker, batch)
            if chosen is None:
                break
            entry, by_prefix = chosen
            job = entry.job
            needed = job.tokens - batch.matched_tokens(job)
            needed += (self.settings.output_room - 1) * job.output_tokens
            if needed > room and (jobs or strict):
                break
            if entry.due <= now and expired >= EXPIRED_PER_CLAIM:
                break  # the next claim goes on
            self._count_pick(worker, entry.leaf, by_prefix)
            if entry.due <= now:
                self._expire(entry)
                expired += 1
                continue
            jobs.append(self._lease(entry, worker, batch, now, time))
            room -= needed
        return Claim(tuple(jobs), expired, now, known)

    def settle(
        self,
        worker: str,
        settlements: Sequence[Settlement],
        time: int,
        inserted: Iterable[str] = (),
        evicted: Iterable[str] = (),
    ) -> list[bool]:
        """Answers each job whose epoch is current, refunding what was reserved above its use."""
        self._tick(time)
        if worker in self.fleet.workers:
            self.fleet.belief.hear(worker, inserted, evicted)
        return [self._settle(item) for item in settlements]

    def renew(self, worker: str, held: Sequence[Claimed], time: int) -> list[bool]:
        """Starts anew the leases whose epoch is current."""
        now = self._tick(time)
        self.fleet.see(worker, now)
        entries = [self._current(claimed.job_id, claimed.epoch) for claimed in held]
        for entry in entries:
            if entry is not None:
                entry.lease_ends_at = now + self.settings.lease_ms
        return [entry is not None for entry in entries]

    def cancel(self, job_id: str, time: int) -> bool:
        """Removes a queued job; a leased one is only marked, so that it is never queued again."""
        self._tick(time)
        entry = self.entries.get(job_id)
        if entry is None or entry.epoch:
            if entry is not None:
                entry.cancelled = True
            return False
        self._unqueue(entry)
        self.fleet.unexpect(entry)
        del self.entries[job_id]
        return True

    def join(self, worker: str, time: int) -> int:
        """A fresh worker with an empty cache; what an earlier one of its name held goes back."""
        requeued = self.leave(worker, time)
        self.fleet.workers[worker] = time - self._skew
        return requeued

    def leave(self, worker: str, time: int) -> int:
        """A worker is gone: its leases end now and its cache is forgotten. Counts the requeued."""
        self._tick(time)
        return self._forget_worker(worker)

    def drain(self, worker: str, time: int) -> None:
        """Nothing more is routed to the worker and its queue moves; its leases go on."""
        self._tick(time)
        self.fleet.workers.pop(worker, None)
        self._streaks.pop(worker, None)

    def reap(self, time: int) -> Reaped:
        """The heartbeat: ends expired leases, answers overdue jobs, forgets who is idle."""
        now = self._tick(time)
        ended = [entry for entry in self._leases() if entry.lease_ends_at <= now]
        fates = Counter(self._release(entry) for entry in ended[:EXPIRED_PER_REAP])
        for worker in self.fleet.idle(now - self.settings.worker_idle_ms):
            fates["requeued"] += self._forget_worker(worker)
        self._adopt(ADOPTED_PER_REAP)
        expired = self._expire_overdue(now, EXPIRED_PER_REAP)
        self._measure_rate(now)
        return Reaped(fates["requeued"], fates["lost"], expired, now)

    def configure(self, name: str, time: int) -> None:
        """Switches the policy for everything that waits."""
        self._tick(time)
        replace(self.settings, policy=name)  # refuses unknown names
        self._tree.policy = name

    def explain(self, job_id: str, time: int) -> Explanation:
        """Why a job waits."""
        now = self._tick(time)
        entry = self.entries.get(job_id)
        if entry is None:
            return Explanation("unknown")
        if entry.epoch:
            return Explanation("leased", entry.worker, now - entry.submitted_at, entry.due - now)
        levels = tuple(map(self.ledger.standing, entry.leaf.lineage()))[::-1]
        before = self.queues.by_deadline(entry.queue).index(entry)
        settings, cost = self.settings, self.ledger.largest_cost
        return Explanation(
            state="queued",
            worker=entry.queue,
            queue_ms=now - entry.submitted_at,
            deadline_in_ms=entry.due - now,
            due_before=before,
            matched_blocks=self.fleet.belief.matched(entry.queue, entry.job),
            levels=levels,
            queued_cost=self.ledger.queued_cost,
            largest_cost=cost,
            drain_rate=self.drain_rate,
            bound=policy.wait_bound(
                levels, before, settings.quantum, settings.refill, settings.overtakes, cost
            ),
        )

    def _tick(self, time: int) -> int:
        """The pool's clock: silences and steps count as 1, so a pause ends no lease."""
        if self._last is not None:
            step = time - self._last
            if step > self.settings.pause_ms or step < 0:
                self._skew += step - 1
        self._last = time
        now = time - self._skew
        self.fleet.silent_before = now - self.settings.worker_silent_ms
        return now

    def _refusal(self, job: Job) -> str:
        limits, root = self.settings, self._tree.root
        tenant = self.nodes.get(job.tenant_id, NOBODY)
        if self._tree.conflicts(job.path):
            return "level_conflict"
        if job.job_id in self.entries:
            return "known"
        if job.deadline_ms <= 0:
            return "deadline"
        tokens = tenant.tokens + job.tokens
        if policy.pool_is_full(
            (root.jobs + 1, root.tokens + job.tokens),
            (tenant.jobs + 1, tokens),
            (limits.max_pool_jobs, limits.max_pool_tokens),
            self._tree.parts(job.path[: job.tenant_level + 1]),
        ):
            return "pool_full"
        if tenant.jobs >= limits.max_tenant_jobs or tokens > limits.max_tenant_tokens:
            return "tenant_full"
        if tenant.jobs + tenant.leased >= limits.max_tenant_in_flight:
            return "tenant_busy"
        return ""

    def _refused(self, answer: str, job: Job) -> Verdict:
        queued = self._tree.root.tokens, self.nodes.get(job.tenant_id, NOBODY).tokens
        wait_ms = policy.refusal_wait_ms(
            answer, job.tokens, *queued, self.drain_rate, self.settings
        )
        return Verdict(answer, wait_ms)
