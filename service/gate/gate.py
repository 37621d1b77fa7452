"""The gate's two faces: one for API processes, one for workers. Knows no keys and no scripts."""

from __future__ import annotations

from collections.abc import Sequence

from service.gate import wire
from service.gate.errors import DeadlineExceededError, PoolFullError, TenantThrottledError
from service.gate.job import Claim, Claimed, GateStats, Job, Reaped, Reply, Settlement
from service.gate.settings import GateSettings
from service.gate.store import LONGEST_POP_S, AsyncStore, Store


class AsyncGate:
    """The API side, for one event loop: submit, cancel, and read the replies of one process.

    Every method raises GateUnavailableError when Redis does not answer in time.
    """

    def __init__(self, url: str, pool: str, settings: GateSettings) -> None:
        self.settings = settings
        self._store = AsyncStore(url, pool, settings)

    async def submit(self, job: Job) -> None:
        """Queues a job; a job_id already known is accepted without effect, so a retry is safe.

        Raises PoolFullError, TenantThrottledError or DeadlineExceededError.
        """
        _now, verdict = await self._store.call("submit", wire.submit_arguments(job))
        _refuse(verdict.decode(), job, self.settings)

    async def cancel(self, job_id: str) -> bool:
        """Removes a waiting job at once; True if it was waiting. A leased one is never requeued."""
        _now, removed = await self._store.call("cancel", [job_id])
        return bool(removed)

    async def next_replies(self, reply_to: str, timeout_s: float = LONGEST_POP_S) -> list[Reply]:
        """Waits up to `timeout_s` for replies; all that are there come at once, or none."""
        raw = await self._store.pop_replies(reply_to, timeout_s)
        return [wire.read_reply(one) for one in raw]

    async def stats(self, max_tenants: int = 100) -> GateStats:
        """Snapshot of the pool with the tenants seen last."""
        return wire.read_stats(await self._store.call("stats", [max_tenants]))

    async def ping(self) -> None:
        """Returns when Redis answers."""
        await self._store.ping()

    async def close(self) -> None:
        """Closes the connections."""
        await self._store.close()


class WorkerGate:
    """The engine's side, for plain threads: wait, claim, settle, renew, reap under one name.

    Every method raises GateUnavailableError when Redis does not answer in time. Only one thread
    may claim; the others verbs may be called from any.
    """

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
        """Takes the worker off the pool; its jobs are queued again. Returns how many."""
        return self.forget(self.worker)

    def forget(self, worker: str) -> int:
        """Ends the leases of a worker known to be dead. Returns how many jobs are queued again."""
        _now, requeued = self._store.call("leave", [worker])
        return int(requeued)

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
        arguments = wire.claim_arguments(self.worker, token_budget, max_jobs, arrived, gone)
        answer = self._store.call("claim", arguments)
        self._unsent.clear()
        return wire.read_claim(answer)

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """Publishes results and refunds overcharges; False marks a stale epoch: nothing changed."""
        _now, *taken = self._store.call("settle", wire.settle_arguments(settlements))
        return [bool(flag) for flag in taken]

    def renew(self, held: Sequence[Claimed]) -> list[bool]:
        """Starts the leases anew; False marks a job this worker no longer holds."""
        _now, *kept = self._store.call("renew", wire.renew_arguments(self.worker, held))
        return [bool(flag) for flag in kept]

    def reap(self) -> Reaped:
        """Requeues jobs of expired leases and answers overdue ones; to be called every second."""
        return wire.read_reaped(self._store.call("reap", []))

    def stats(self, max_tenants: int = 100) -> GateStats:
        """Snapshot of the pool with the tenants seen last."""
        return wire.read_stats(self._store.call("stats", [max_tenants]))

    def close(self) -> None:
        """Closes the connections."""
        self._store.close()


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
