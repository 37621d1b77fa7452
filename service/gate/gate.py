"""The gate's two faces: one for API processes, one for workers. Knows no keys and no scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.gate.errors import DeadlineExceededError, PoolFullError, TenantThrottledError
from service.gate.job import (
    Claim,
    Claimed,
    GateStats,
    Job,
    Outcome,
    Reaped,
    Reply,
    Settlement,
    TenantStats,
)
from service.gate.settings import GateSettings
from service.gate.store import LONGEST_POP_S, Argument, AsyncStore, Store


class AsyncGate:
    """The API side, for one event loop: submit, cancel, and read the replies of one process."""

    def __init__(self, url: str, pool: str, settings: GateSettings) -> None:
        self.settings = settings
        self._store = AsyncStore(url, pool, settings)

    async def submit(self, job: Job) -> None:
        """Queues a job; a job_id already known is accepted without effect, so a retry is safe.

        Raises PoolFullError, TenantThrottledError, DeadlineExceededError or GateUnavailableError.
        """
        _now, verdict = await self._store.call("submit", _submit_arguments(job))
        _refuse(verdict.decode(), job, self.settings)

    async def cancel(self, job_id: str) -> bool:
        """Removes a waiting job at once; True if it was waiting. A leased one is never requeued."""
        _now, removed = await self._store.call("cancel", [job_id])
        return bool(removed)

    async def next_replies(self, reply_to: str, timeout_s: float = LONGEST_POP_S) -> list[Reply]:
        """Waits up to `timeout_s` for replies; all that are there come at once, or none."""
        return [_reply(raw) for raw in await self._store.pop_replies(reply_to, timeout_s)]

    async def stats(self, max_tenants: int = 100) -> GateStats:
        """Snapshot of the pool with the tenants seen last."""
        return _stats(await self._store.call("stats", [max_tenants]))

    async def ping(self) -> None:
        """Raises GateUnavailableError unless Redis answers."""
        await self._store.ping()

    async def close(self) -> None:
        """Closes the connections."""
        await self._store.close()


class WorkerGate:
    """The engine's side, for a plain thread: wait, claim, settle, renew, reap under one name."""

    def __init__(self, url: str, pool: str, settings: GateSettings, worker: str) -> None:
        self.worker = worker
        self._store = Store(url, pool, settings)
        self._unsent: dict[str, bool] = {}  # block hash -> inserted, kept until a claim arrives

    def join(self) -> int:
        """Announces a fresh worker with an empty cache.

        Returns how many jobs an earlier worker of this name held; they are queued again.
        """
        self._unsent.clear()
        _now, requeued = self._store.call("join", [self.worker])
        return int(requeued)

    def leave(self) -> int:
        """Takes the worker off the pool; its jobs go back to the queue. Returns how many."""
        return forget_worker(self._store, self.worker)

    def wait_for_work(self, timeout_s: float = LONGEST_POP_S) -> bool:
        """Blocks until a job may be waiting or the time is up; False on timeout."""
        return self._store.wait_for_wake(timeout_s)

    def claim(
        self,
        token_budget: int,
        max_jobs: int,
        inserted: Sequence[str] = (),
        evicted: Sequence[str] = (),
    ) -> Claim:
        """Leases the next jobs in DLPM order, within `token_budget` extend tokens.

        `inserted` and `evicted` are the cache events since the last call; if the call fails they
        are kept and sent again by the next one. The first job may exceed the budget.
        """
        self._unsent |= dict.fromkeys(inserted, True) | dict.fromkeys(evicted, False)
        arrived = [block for block, held in self._unsent.items() if held]
        gone = [block for block, held in self._unsent.items() if not held]
        head: list[Argument] = [self.worker, token_budget, max_jobs, len(arrived)]
        answer = self._store.call("claim", [*head, *arrived, *gone])
        self._unsent.clear()
        return _claim(answer)

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """Publishes results, refunds overcharges; False marks a stale epoch, which changes nothing."""
        rows = [
            (item.job_id, item.epoch, item.extend_tokens, item.outcome.value, item.result)
            for item in settlements
        ]
        _now, *taken = self._store.call("settle", [cell for row in rows for cell in row])
        return [bool(flag) for flag in taken]

    def renew(self, held: Sequence[Claimed]) -> list[bool]:
        """Starts the leases anew; False marks a job this worker no longer holds."""
        cells = [cell for job in held for cell in (job.job_id, job.epoch)]
        _now, *kept = self._store.call("renew", [self.worker, *cells])
        return [bool(flag) for flag in kept]

    def reap(self) -> Reaped:
        """Requeues jobs of expired leases and answers overdue ones; to be called every second."""
        now, requeued, lost, expired, paused = self._store.call("reap", [])
        return Reaped(requeued, lost, expired, paused, now)

    def stats(self, max_tenants: int = 100) -> GateStats:
        """Snapshot of the pool with the tenants seen last."""
        return _stats(self._store.call("stats", [max_tenants]))

    def close(self) -> None:
        """Closes the connections."""
        self._store.close()


def forget_worker(store: Store, worker: str) -> int:
    """What a supervisor calls when it knows that a worker died; returns how many jobs went back."""
    _now, requeued = store.call("leave", [worker])
    return int(requeued)


def _submit_arguments(job: Job) -> list[Argument]:
    width = len(job.context_id)
    return [
        job.job_id,
        job.tenant,
        job.weight,
        job.deadline_ms,
        job.context_id,
        "".join(job.context_hashes),
        width,
        job.block_size,
        job.context_tokens,
        job.candidate_tokens,
        job.reply_to,
        job.payload,
    ]


def _refuse(verdict: str, job: Job, settings: GateSettings) -> None:
    retry = settings.retry_after_ms
    if verdict == "pool_full":
        raise PoolFullError("the queue is full, retry later", retry_after_ms=retry)
    if verdict == "tenant_full":
        raise TenantThrottledError(
            f"tenant {job.tenant!r} has its limit of {settings.max_tenant_jobs} jobs or "
            f"{settings.max_tenant_tokens} tokens queued, wait for answers before sending more",
            retry_after_ms=retry,
        )
    if verdict == "deadline":
        raise DeadlineExceededError(
            "the deadline passed before the job was queued, allow more time", param="deadline_ms"
        )
    assert verdict in ("queued", "known"), verdict


def _claim(answer: Sequence[Any]) -> Claim:
    now, expired, *rows = answer
    jobs = tuple(
        Claimed(job_id.decode(), epoch, payload, reply_to.decode(), charged, cached, queue_ms)
        for job_id, epoch, payload, reply_to, charged, cached, queue_ms in rows
    )
    return Claim(jobs, expired, now)


def _reply(raw: bytes) -> Reply:
    job_id, outcome, result = raw.split(b"\0", 2)
    return Reply(job_id.decode(), Outcome(outcome.decode()), result)


def _stats(answer: Sequence[Any]) -> GateStats:
    now, refill_round, queued_jobs, queued_tokens, leased_jobs, tenants, workers = answer
    return GateStats(
        queued_jobs=queued_jobs,
        queued_tokens=queued_tokens,
        leased_jobs=leased_jobs,
        round=refill_round,
        now_ms=now,
        tenants={name.decode(): TenantStats(*standing) for name, *standing in tenants},
        workers={name.decode(): seen_ms for name, seen_ms in workers},
    )
