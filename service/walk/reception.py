"""Takes calls in: tenant, body, turn, deadline, and the way through the gate and back.

Knows nothing of HTTP or Redis, nor of what is asked: rankers and reasoners bring that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from service.base.config import Settings
from service.base.errors import BodyTimeoutError, UnauthorizedError
from service.base.names import new_name
from service.bodies.schemas import ContextRequest
from service.dispatch.fallback import Fallback
from service.gate.errors import DeadlineExceededError
from service.gate.job import Job, Level, tenant_id
from service.jobs.jobs import JobResult
from service.metrics.engine_board import EngineBoard
from service.metrics.metrics import Metrics
from service.slates.slate import Errand
from service.tenants.refusals import Refusals
from service.tenants.tenants import Tenant, Tenants
from service.tenants.turns import Turns
from service.walk.insight import Insight

# A body without either is of the tenant's default class; JSON may write the name in escapes.
CLASS_FIELDS = (b'"priority"', b"\\u00")
LONG_BODY_BYTES = 64 << 10  # a millisecond of the event loop, which all tenants share


@dataclass(frozen=True, slots=True)
class Call:
    """What the edge knows of one request before its body is read."""

    request_id: str
    authorization: str | None
    read_body: Callable[[], Awaitable[bytes]]
    arrived: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, slots=True)
class Clock:
    """Milliseconds since a call arrived and until its deadline."""

    arrived: float
    deadline_ms: int

    @property
    def elapsed_ms(self) -> float:
        return (time.perf_counter() - self.arrived) * 1000

    @property
    def remaining_ms(self) -> float:
        return self.deadline_ms - self.elapsed_ms


Asked = TypeVar("Asked", bound=ContextRequest)
Tokens = TypeVar("Tokens")


@dataclass(frozen=True, slots=True)
class Admitted(Generic[Asked, Tokens]):
    """One request on its way to the gate: what was asked, as tokens, for whom and until when."""

    request: Asked
    tokens: Tokens
    errand: Errand
    clock: Clock
    tokenize_ms: float


class Reception:
    """One per API process, for all that it serves; safe to call from tasks of one event loop."""

    def __init__(
        self,
        settings: Settings,
        tenants: Tenants,
        gate: Fallback,
        insight: Insight,
        metrics: Metrics,
        board: EngineBoard,
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.board = board
        self._tenants = tenants
        self._gate = gate
        self._insight = insight
        self._turns = Turns(settings.tokenizer_threads, settings.max_tenant_waiting)
        self._refusals = Refusals()

    def authenticate(self, authorization: str | None) -> Tenant:
        """Raises UnauthorizedError."""
        return self._tenants.authenticate(authorization)

    def refuse_unread(self, authorization: str | None) -> bool:
        """Raises TenantThrottledError for a tenant that was refused a moment ago, and counts it.

        True where only its body can tell, for it may name a class that was not. A key that nobody
        has is left to `authenticate`.
        """
        with suppress(UnauthorizedError):
            tenant = self._tenants.authenticate(authorization)
            with self.metrics.failures_of(tenant.name):
                self._refuse(tenant, tenant.nodes)
            return self._refusals.refuses(tenant.nodes[0])
        return False

    def refuse_unparsed(self, authorization: str | None, body: bytes) -> None:
        """The same when the body is there. Raises UnauthorizedError too."""
        tenant = self._tenants.authenticate(authorization)
        with self.metrics.failures_of(tenant.name):
            self._refuse_body(tenant, body)

    async def ready(self) -> bool:
        """Whether a job sent now would find Redis and a live engine."""
        return await self._gate.ready()

    async def admit(
        self,
        call: Call,
        tenant: Tenant,
        parse: Callable[[bytes, Settings], Asked],
        encode: Callable[[Asked], Awaitable[Tokens]],
    ) -> Admitted[Asked, Tokens]:
        """Waits for the body, refuses what the gate would, and has it made tokens in time."""
        request = await self._parsed(call, tenant, parse)
        path = tenant.path(request.user, request.priority)
        self._refusals.enter(tenant_id(path, tenant.level))
        clock = Clock(call.arrived, request.deadline_ms or self.settings.default_deadline_ms)
        async with deadline(clock):
            parsed_ms = clock.elapsed_ms
            tokens = await encode(request)
            tokenize_ms = clock.elapsed_ms - parsed_ms
        return Admitted(request, tokens, self._errand(tenant, path, clock), clock, tokenize_ms)

    async def in_turn(self, tenant: Tenant, work: Callable[[], Tokens]) -> Tokens:
        """Runs work that takes long in a thread, in the tenant's turn."""
        return await self._turns.run(tenant.name, work)

    async def send(
        self,
        jobs: Sequence[Job],
        request_id: str,
        hear: Callable[[str, JobResult], object] | None = None,
    ) -> Sequence[JobResult]:
        """Results of one request's jobs, in order. Raises as `Dispatcher.score` does.

        hear: is told of each result with the job's id as soon as it is there.
        """
        first = jobs[0]
        following = self._insight.following(first.tenant, request_id, [one.job_id for one in jobs])
        with following, self._refusals.noting(first.tenant_id):
            results = await self._gate.score(jobs, hear)
        for result in results:
            if result.report:
                self.board.hear(result.report)
        return results

    async def _body(self, call: Call) -> bytes:
        patience_ms = self.settings.default_deadline_ms  # the request's own is still unread
        try:
            async with asyncio.timeout(patience_ms / 1000):
                return await call.read_body()
        except TimeoutError as error:
            raise BodyTimeoutError(
                f"the body did not arrive within {patience_ms} ms; send it faster"
            ) from error

    async def _parsed(
        self, call: Call, tenant: Tenant, parse: Callable[[bytes, Settings], Asked]
    ) -> Asked:
        body = await self._body(call)
        self._refuse_body(tenant, body)
        if len(body) <= LONG_BODY_BYTES:
            return parse(body, self.settings)
        async with deadline(Clock(call.arrived, self.settings.max_deadline_ms)):
            return await self._turns.run(tenant.name, parse, body, self.settings)

    def _refuse_body(self, tenant: Tenant, body: bytes) -> None:
        names_class = any(field in body for field in CLASS_FIELDS)
        self._refuse(tenant, tenant.nodes if names_class else tenant.nodes[:1])

    def _refuse(self, tenant: Tenant, nodes: Sequence[str]) -> None:
        """Raises TenantThrottledError while every node that a job may be of refuses it."""
        self._turns.check(tenant.name)
        self._refusals.check(nodes)

    def _errand(self, tenant: Tenant, path: tuple[Level, ...], clock: Clock) -> Errand:
        deadline_ms = max(1, int(clock.remaining_ms))
        return Errand(new_name(), path, tenant.level, deadline_ms, self._gate.reply_to)


@asynccontextmanager
async def deadline(clock: Clock) -> AsyncIterator[None]:
    """Raises DeadlineExceededError when the block lasts longer than the clock allows."""
    with suppress(TimeoutError):
        async with asyncio.timeout(clock.remaining_ms / 1000):
            yield
        return
    # Not out of the TimeoutError: its traceback holds asyncio's Timeout, which holds the task that
    # will hold this error, a circle for each missed deadline.
    raise DeadlineExceededError(
        f"not answered within deadline_ms {clock.deadline_ms}; send fewer candidates or allow more "
        "time",
        param="deadline_ms",
    )
