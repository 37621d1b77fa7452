"""The gate's two faces: one for API processes, one for workers. Knows no keys and no scripts."""

from __future__ import annotations

import itertools
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from service.gate import wire
from service.gate.coalescer import Coalescer
from service.gate.errors import (
    EvictingRedisError,
    GateUnavailableError,
    PoolSettingsError,
    WorkerNameTakenError,
)
from service.gate.job import (
    Claim,
    Claimed,
    Explanation,
    GateStats,
    Job,
    Reaped,
    Reply,
    Settlement,
    Verdict,
)
from service.gate.refusals import refuse
from service.gate.settings import GateSettings
from service.gate.store import LONGEST_POP_S, AsyncStore, Store

SUBMITTED_AT_ONCE = 8  # a millisecond or so of Redis' time
RANKED_AT_ONCE = 32  # likewise
EVENTS_AT_ONCE = 4_000  # of a cache, in one call: Lua takes no more than 8,000 arguments apart


class AsyncGate:
    """The API side, for one event loop: submit, cancel, and read the replies of one process.

    Every method raises GateUnavailableError when Redis does not answer in time.
    """

    def __init__(self, url: str, pool: str, settings: GateSettings) -> None:
        self.settings = settings
        self._store = AsyncStore(url, pool, settings)
        self._submissions = Coalescer(self._submit_all, SUBMITTED_AT_ONCE)

    async def submit(self, job: Job) -> None:
        """Queues a job; a job_id already known is accepted without effect, so a retry is safe.

        Raises PoolFullError, TenantThrottledError, LevelConflictError or DeadlineExceededError.
        """
        refuse(await self._submissions.send(job, job.tenant_id), job, self.settings)

    async def _submit_all(self, jobs: Sequence[Job]) -> Sequence[Verdict]:
        arguments = [cell for job in jobs for cell in wire.submit_arguments(job)]
        answer = await self._store.call("submit", arguments)
        return wire.read_verdicts(answer, jobs, self.settings)

    async def cancel_all(self, job_ids: Sequence[str]) -> list[bool]:
        """Removes those that wait, True for each of them; a leased one is never requeued."""
        _now, *removed = await self._store.call("cancel", job_ids)
        return [bool(flag) for flag in removed]

    async def next_replies(self, reply_to: str, timeout_s: float = LONGEST_POP_S) -> list[Reply]:
        """Waits up to `timeout_s` for replies; all that are there come at once, or none.

        After an outage some can come a second time; none is lost with an answer that came late.
        """
        raw = await self._store.read_replies(reply_to, timeout_s)
        return [wire.read_reply(one) for one in raw]

    async def explain(self, job_id: str) -> Explanation:
        """Why a job waits, and the cost served before it at most."""
        return wire.read_explanation(await self._store.call("explain", [job_id]))

    async def configure(self, policy: str) -> None:
        """Switches the policy of the whole pool: one of `settings.POLICIES`, else ValueError.

        Returns when all that waits is ranked by it, or by one named later; cut off before, the next
        claims do the rest.
        """
        replace(self.settings, policy=policy)
        while await self._rank(policy):
            policy = ""  # go on

    async def _rank(self, policy: str) -> int:
        _now, left = await self._store.call("configure", [policy, RANKED_AT_ONCE])
        return int(left)

    async def stats(self, nodes: Sequence[str] = ()) -> GateStats:
        """Snapshot of the pool, with those of the tree's nodes that are asked for and known."""
        return wire.read_stats(await self._store.call("stats", nodes))

    async def close(self) -> None:
        """Closes the connections."""
        await self._store.close()


class WorkerGate:
    """The engine's side, for plain threads: wait, claim, settle, renew, reap under one name.

    Every method raises GateUnavailableError when Redis does not answer in time, a claim also
    WorkerNameTakenError once another worker has joined under the name. Only one thread
    may claim; the other verbs may be called from any.
    """

    def __init__(self, url: str, pool: str, settings: GateSettings, worker: str) -> None:
        if not re.fullmatch(r"[\w.-]+", worker):
            raise ValueError(f"worker {worker!r} must be letters, digits, '.', '_' or '-'")
        self.worker = worker
        self._instance = uuid.uuid4().hex
        self._settings = settings
        self._store = Store(url, pool, settings)
        self._held: dict[str, None] = {}  # blocks of the cache, for a pool that forgot them
        self._unsent: dict[str, bool] = {}  # block hash -> inserted, kept until a call arrives
        self._acknowledged = 0  # the last epoch that arrived

    def join(self) -> int:
        """Announces a fresh worker with an empty cache, whose settings the whole pool takes over.

        Returns how many jobs an earlier worker of this name held; they are queued again. Raises
        PoolSettingsError beside live workers with other settings, and EvictingRedisError.
        """
        if policy := self._store.eviction_of_any_key():
            raise EvictingRedisError(
                f"Redis evicts any key by maxmemory-policy {policy}, and jobs with it; set it to "
                "noeviction, so that a full Redis refuses new jobs instead"
            )
        answer = self._store.call("join", [self.worker, self._instance])
        requeued, differing = wire.read_join(answer, self._settings)
        if differing:
            theirs = ", ".join(f"{name} = {value}" for name, value in differing.items())
            raise PoolSettingsError(
                f"worker {self.worker!r} has other settings than the pool's live workers, which "
                f"serve by {theirs}: start all with the same settings, or stop the "
                "others first; one that died is forgotten after worker_idle_ms"
            )
        self._unsent.clear()
        self._held.clear()
        return requeued

    def drain(self) -> None:
        """Has nothing more routed here; the queue moves, claimed jobs are still to be settled."""
        self._store.call("drain", [self.worker])

    def leave(self) -> int:
        """Takes the worker off the pool; its jobs are queued again. Returns how many."""
        return self.forget(self.worker)

    def forget(self, worker: str) -> int:
        """Ends the leases of a worker known to be dead. Returns how many jobs are queued again."""
        _now, requeued = self._store.call("leave", [worker])
        return int(requeued)

    def wait_for_work(self, timeout_s: float = LONGEST_POP_S) -> bool:
        """Blocks until a job may be waiting or the time is up; False on timeout."""
        return self._store.wait_for_wake(self.worker, timeout_s)

    def claim(
        self,
        token_budget: int,
        max_jobs: int,
        inserted: Sequence[str] = (),
        evicted: Sequence[str] = (),
        *,
        strict: bool = False,
    ) -> Claim:
        """Leases the next jobs in the pool's order, within `token_budget` extend tokens, of which
        an output token takes up `output_room`.

        `inserted` and `evicted` are the cache events since the last call; if the call fails they
        are kept and sent again by the next one, as are those above EVENTS_AT_ONCE. The first job
        may exceed the budget unless `strict`. Jobs in an answer that was lost are queued again by
        the next claim.
        """
        fresh, gone = self._events(inserted, evicted)
        arguments = wire.claim_arguments(
            self.worker,
            token_budget,
            max_jobs,
            fresh,
            gone,
            strict=strict,
            acknowledged=self._acknowledged,
            instance=self._instance,
        )
        with self._claiming():
            return self._take(self._store.call("claim", arguments), [*fresh, *gone])

    def exchange(
        self,
        settlements: Sequence[Settlement],
        token_budget: int,
        max_jobs: int,
        inserted: Sequence[str] = (),
        evicted: Sequence[str] = (),
    ) -> Claim:
        """`settle` and then `claim`, in one round trip; may be repeated whatever became of it."""
        if not settlements:
            return self.claim(token_budget, max_jobs, inserted, evicted)
        fresh, gone = self._events(inserted, evicted)
        settling = wire.settle_arguments(self.worker, settlements, fresh, gone)
        claiming = wire.claim_arguments(
            self.worker,
            token_budget,
            max_jobs,
            acknowledged=self._acknowledged,
            instance=self._instance,
        )
        with self._claiming():
            answers = self._store.call_all([("settle", settling), ("claim", claiming)])
            return self._take(answers[1], [*fresh, *gone])

    def settle(
        self,
        settlements: Sequence[Settlement],
        inserted: Sequence[str] = (),
        evicted: Sequence[str] = (),
    ) -> list[bool]:
        """Publishes results and refunds overcharges; False marks a stale epoch: nothing changed."""
        fresh, gone = self._events(inserted, evicted)
        arguments = wire.settle_arguments(self.worker, settlements, fresh, gone)
        _now, *taken = self._store.call("settle", arguments)
        self._note_sent([*fresh, *gone])
        return [bool(flag) for flag in taken]

    def renew(self, held: Sequence[Claimed]) -> list[bool]:
        """Starts the leases anew; False marks a job this worker no longer holds."""
        _now, *kept = self._store.call("renew", wire.renew_arguments(self.worker, held))
        return [bool(flag) for flag in kept]

    def reap(self) -> Reaped:
        """Requeues jobs of expired leases and answers overdue ones; to be called every second."""
        return wire.read_reaped(self._store.call("reap", []))

    def stats(self, nodes: Sequence[str] = ()) -> GateStats:
        """Snapshot of the pool, with those of the tree's nodes that are asked for and known."""
        return wire.read_stats(self._store.call("stats", nodes))

    def close(self) -> None:
        """Closes the connections."""
        self._store.close()

    @contextmanager
    def _claiming(self) -> Iterator[None]:
        try:
            yield
        except GateUnavailableError:  # the lost answer may have said that the pool forgot the cache
            self._unsent |= dict.fromkeys(self._held, True)
            raise

    def _take(self, answer: Sequence[Any], sent: Sequence[str]) -> Claim:
        if answer[1] < 0:
            raise WorkerNameTakenError(
                f"another worker joined as {self.worker!r} after this one, and two of one name end "
                "each other's leases; stop one of them, or give each a name of its own"
            )
        claim = wire.read_claim(answer)
        self._acknowledged = max([self._acknowledged, *(job.epoch for job in claim.jobs)])
        self._note_sent(sent)
        if not claim.known:
            self._unsent = dict.fromkeys(self._held, True)
        return claim

    def _note_sent(self, blocks: Sequence[str]) -> None:
        for block in blocks:
            self._unsent.pop(block, None)

    def _events(
        self, inserted: Sequence[str], evicted: Sequence[str]
    ) -> tuple[list[str], list[str]]:
        self._held |= dict.fromkeys(inserted)
        for block in evicted:
            self._held.pop(block, None)
        self._unsent |= dict.fromkeys(inserted, True) | dict.fromkeys(evicted, False)
        sent = [*itertools.islice(self._unsent.items(), EVENTS_AT_ONCE)]
        fresh = [block for block, held in sent if held]
        return fresh, [block for block, held in sent if not held]
