"""Sends jobs through the gate and hands each reply to whoever waits. Knows nothing of slates."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from models.errors import FairslateError
from service.base.errors import EngineAbsentError, engine_error
from service.dispatch.abandoned import Abandoned
from service.dispatch.lost_jobs import LostJobs
from service.dispatch.recent import Recent
from service.gate.errors import DeadlineExceededError, GateUnavailableError, WorkerLostError
from service.gate.gate import AsyncGate
from service.gate.job import Explanation, GateStats, Job, Outcome, Reply
from service.gate.store import REPLIES_AT_ONCE
from service.jobs.jobs import JobFailure, JobResult, decode_result
from service.process.outage_log import OutageLog

logger = logging.getLogger("fairslate.dispatch")

RETRY_SECONDS = 0.1
LOOK_SECONDS = 0.25  # how old a look at the pool may be that probes share
EXPLAINED_AT_ONCE = 4  # who asks why a job waits must not hold up those who send jobs
POLL_SECONDS = 0.1  # far below the socket timeout: a busy machine must not look like a lost Redis
WATCH_SECONDS = 1.0
ENGINE_SILENCE_MS = 10_000  # far above a batch: whoever asks now is better told to retry
# BentoML looks for dead engines every ten seconds, and a new one has a model to load: whoever waits
# by then is served by it.
REPLACEMENT_MS = 20_000
READY_SILENCE_MS = 3000
RETRY_AFTER_MS = 1000
CALM_SECONDS = 5.0  # without a refusal by Redis before the log says that it takes slates again
Hear = Callable[[str, JobResult], object]
GRACE_SECONDS = 1.0  # behind a deadline; by then the gate has answered, or nobody ever will


class Dispatcher:
    """One per API process: every job it submits is answered on its own reply list."""

    def __init__(
        self,
        gate: AsyncGate,
        observe: Callable[[GateStats], None] = lambda _: None,
        tidy: Callable[[int], object] = lambda _: None,
        nodes: Sequence[str] = (),
        reply_to: str = "",
    ) -> None:
        """About once a second `observe` is shown the pool with these nodes of its tree.

        `tidy` is then told how many jobs are in flight. reply_to: what the reply list is called, by
        default like no other.
        """
        self.reply_to = reply_to or uuid.uuid4().hex
        self._gate = gate
        self._observe = observe
        self._tidy = tidy
        self._nodes = nodes
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self._submitted: dict[str, None] = {}  # of these, oldest first, those that Redis took
        self._lost_jobs = LostJobs()
        self._abandoned = Abandoned(gate)
        self._look = Recent(self._see_engines, LOOK_SECONDS)
        self._explaining = asyncio.Semaphore(EXPLAINED_AT_ONCE)
        self._seen: GateStats | None = None  # by the last look, if Redis answered it
        self._outage = OutageLog(logger, "cannot see the engines")
        self._refusals = OutageLog(logger, "slates are refused", CALM_SECONDS)
        self._engine_alive = False
        self._away = ""  # why Redis did not answer the last look
        self._closing = False

    def close(self) -> None:
        """Ends both loops below; a cancellation that redis-py swallows cannot keep them alive."""
        self._closing = True

    async def finish(self) -> None:
        """Takes what nobody waits for any more out of the queue, before the gate is closed."""
        await self._abandoned.finish()

    @property
    def in_flight(self) -> int:
        """Jobs whose reply is awaited."""
        return len(self._waiting)

    def awaits(self, job_id: str) -> bool:
        """Whether somebody waits for the job's reply."""
        return job_id in self._waiting

    async def answers(self) -> bool:
        """Whether Redis does, and takes writes: a primary that became a replica does not.

        Asked twice, for a connection may end without Redis being away.
        """
        for _ in range(2):
            with contextlib.suppress(FairslateError):
                await self._gate.stats()
                return True
        return False

    async def score(self, jobs: Sequence[Job], hear: Hear | None = None) -> list[JobResult]:
        """Results in the order of the jobs. Raises the first failure, the gate's refusals included.

        hear: is told of each result, with the job's id, as soon as it is there.
        However it ends, by cancellation too, no job of the slate stays queued behind it.
        """
        if not self._engine_alive:
            raise self._redis_away() if self._away else _engine_absent()
        loop = asyncio.get_running_loop()
        futures = {job.job_id: loop.create_future() for job in jobs}
        if hear:
            for job_id, future in futures.items():
                future.add_done_callback(partial(_tell, hear, job_id))
        self._waiting |= futures
        try:
            for job in jobs:
                await self._submit(job)
            replies = await _in_time(futures.values(), max(job.deadline_ms for job in jobs))
            return [_result(reply) for reply in replies]
        finally:
            self._forget(futures, max(job.deadline_ms for job in jobs) / 1000)
            futures.clear()  # an error's traceback leads here, and from here to the error

    async def explain(self, job_ids: Sequence[str]) -> list[Explanation]:
        """Why each job waits, in their order. Raises GateUnavailableError."""
        async with self._explaining:
            return [await self._explain(job_id) for job_id in job_ids]

    async def configure(self, policy: str) -> None:
        """Switches the pool's policy for all its processes. Raises GateUnavailableError."""
        await self._gate.configure(policy)

    async def policy(self) -> str:
        """The pool's present one. Raises GateUnavailableError."""
        return (await self._gate.stats()).policy

    async def read_replies(self) -> None:
        """Resolves waiting futures until `close`. An absent Redis fails all that wait just then."""
        while not self._closing:
            read = self._lost_jobs.begin_read()
            try:
                replies = await self._next_replies()
            except FairslateError as error:
                self._look.forget()
                self._fail_all(error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            for reply in replies:
                self._resolve(reply)
            if len(replies) < REPLIES_AT_ONCE:
                self._fail(self._lost_jobs.end_read(read), _job_lost())

    async def watch_engines(self) -> None:
        """Looks at the pool until `close`: whether an engine is alive, and who waits."""
        while not self._closing:
            self._look.forget()
            await self._look.get()
            if self._seen is not None:
                self._observe(self._seen)
            self._tidy(self.in_flight)
            await self._look_for_lost()
            await asyncio.sleep(WATCH_SECONDS if self._engine_alive else RETRY_SECONDS)

    async def ready(self) -> bool:
        """Whether Redis answers and an engine was heard of a moment ago; costs probes no look each.

        When the last engine has settled its batch and left, all that wait fail: a server that stops
        would otherwise stay until their deadlines.
        """
        return await self._look.get()

    async def _submit(self, job: Job) -> None:
        try:
            await self._gate.submit(job)
        except GateUnavailableError as error:
            self._refusals.away(error)
            raise
        self._refusals.back()
        self._submitted[job.job_id] = None

    def _redis_away(self) -> GateUnavailableError:
        return GateUnavailableError(self._away, retry_after_ms=RETRY_AFTER_MS)

    async def _explain(self, job_id: str) -> Explanation:
        future = self._waiting.get(job_id)
        answered = future is not None and future.done()
        return Explanation("answered") if answered else await self._gate.explain(job_id)

    async def _see_engines(self) -> bool:
        self._seen = None
        try:
            stats = self._seen = await self._gate.stats(self._nodes)
        except FairslateError as error:
            # What was last known of the engines stands: submitting finds out about Redis itself.
            self._outage.away(error)
            self._away = str(error)
            return False
        self._outage.back()
        self._away = ""
        silence_ms = min(stats.workers.values(), default=REPLACEMENT_MS)
        self._engine_alive = silence_ms < ENGINE_SILENCE_MS
        if silence_ms >= REPLACEMENT_MS and not stats.leased_jobs:
            self._fail_all(_engine_absent())
        return silence_ms < READY_SILENCE_MS

    async def _look_for_lost(self) -> None:
        """A Redis that loses its data and goes on loses what came first, up to some moment."""
        with contextlib.suppress(FairslateError):
            for job_id in [*self._submitted]:
                if self._waits(job_id):
                    if (await self._gate.explain(job_id)).state != "unknown":
                        return
                    self._lost_jobs.suspect(job_id)

    async def _next_replies(self) -> list[Reply]:
        """Asks a second time at once: a connection may end without Redis being away."""
        try:
            return await self._gate.next_replies(self.reply_to, POLL_SECONDS)
        except FairslateError:
            return await self._gate.next_replies(self.reply_to, POLL_SECONDS)

    def _resolve(self, reply: Reply) -> None:
        if self._waits(reply.job_id):
            self._waiting[reply.job_id].set_result(reply)

    def _waits(self, job_id: str) -> bool:
        future = self._waiting.get(job_id)
        return future is not None and not future.done()

    def _fail_all(self, error: FairslateError) -> None:
        self._fail(list(self._waiting), error)

    def _fail(self, job_ids: Iterable[str], error: FairslateError) -> None:
        for job_id in filter(self._waits, job_ids):
            self._waiting[job_id].set_exception(error)

    def _forget(self, futures: dict[str, asyncio.Future[Reply]], seconds: float) -> None:
        left = []
        for job_id, future in futures.items():
            del self._waiting[job_id]
            self._submitted.pop(job_id, None)
            if not future.done() or future.cancelled() or future.exception() is not None:
                left.append(job_id)
        self._abandoned.add(dict.fromkeys(left, seconds))


async def _in_time(futures: Iterable[asyncio.Future[Reply]], deadline_ms: int) -> list[Reply]:
    """All replies; a lost one must not keep its caller beyond the deadline."""
    try:
        async with asyncio.timeout(deadline_ms / 1000 + GRACE_SECONDS):
            return await asyncio.gather(*futures)
    except TimeoutError as error:
        raise DeadlineExceededError(
            "no answer came by the deadline; retry", param="deadline_ms"
        ) from error


def _tell(hear: Hear, job_id: str, future: asyncio.Future[Reply]) -> None:
    """Of results only: a failure is raised for the whole request."""
    if not future.cancelled() and future.exception() is None:
        with contextlib.suppress(FairslateError):
            hear(job_id, _result(future.result()))


def _job_lost() -> GateUnavailableError:
    return GateUnavailableError("Redis lost the job; retry", retry_after_ms=RETRY_AFTER_MS)


def _engine_absent() -> EngineAbsentError:
    return EngineAbsentError("no engine is serving; retry shortly", retry_after_ms=RETRY_AFTER_MS)


def _result(reply: Reply) -> JobResult:
    if reply.outcome is Outcome.DEADLINE:
        raise DeadlineExceededError(
            "the deadline passed in the queue; allow more time", param="deadline_ms"
        )
    if reply.outcome is Outcome.WORKER_LOST:
        raise WorkerLostError(
            "every engine that took the job vanished; retry", retry_after_ms=RETRY_AFTER_MS
        )
    result = decode_result(reply.result)
    if isinstance(result, JobFailure):
        raise engine_error(result.code, result.message)
    return result
