"""The walk of one request: who, what, tokens, scores, answer. Knows nothing of HTTP or Redis."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from models.card import ModelCard
from models.prompt import PromptBuilder
from service.answer import assemble, stage_times
from service.config import Settings
from service.dispatch import Dispatcher
from service.errors import BodyTimeoutError
from service.gate.errors import DeadlineExceededError
from service.gate.job import Level
from service.insight import Insight
from service.jobs import JobResult
from service.metrics import Metrics
from service.schemas import RankRequest
from service.slate import Errand, Slate, encode_slate, slate_jobs
from service.tenants import Tenant, Tenants
from service.turns import Turns
from service.validation import parse_rank_request

LONG_BODY_BYTES = 64 << 10  # a millisecond of the event loop, which all tenants share


@dataclass(frozen=True, slots=True)
class Call:
    """What the edge knows of one request before its body is read."""

    request_id: str
    authorization: str | None
    read_body: Callable[[], Awaitable[bytes]]


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


class Ranker:
    """Answers calls for one model; safe to call from many tasks of one event loop."""

    def __init__(
        self,
        settings: Settings,
        card: ModelCard,
        prompt: PromptBuilder,
        tenants: Tenants,
        dispatcher: Dispatcher,
        insight: Insight,
        metrics: Metrics,
    ) -> None:
        self.settings = settings
        self._card = card
        self._prompt = prompt
        self._tenants = tenants
        self._dispatcher = dispatcher
        self._insight = insight
        self._metrics = metrics
        # Once: a digest is a hash over the whole card.
        self._model = {"name": card.name, "version": card.version, "digest": card.digest}
        self._turns = Turns(settings.tokenizer_threads)

    async def rank(self, call: Call) -> dict[str, Any]:
        """Raises FairslateError; a cancelled call takes its jobs out of the queue."""
        arrived = time.perf_counter()
        tenant = self._tenants.authenticate(call.authorization)
        with self._metrics.failures_of(tenant.name):
            request = await self._parsed(call, arrived, tenant, parse_rank_request)
            path = tenant.path(request.user, request.priority)
            clock = Clock(arrived, request.deadline_ms or self.settings.default_deadline_ms)
            async with _deadline(clock):
                parsed_ms = clock.elapsed_ms
                slate = await self._tokenize(request, tenant)
                tokenize_ms = clock.elapsed_ms - parsed_ms
                errand = self._errand(tenant, path, clock)
                results = await self._score(slate, errand, call.request_id)
            answer = assemble(self._card.calibration, request, slate, results)
        timings = stage_times(results, tokenize_ms, clock.elapsed_ms)
        self._metrics.answered(tenant.name, timings, answer["usage"])
        own = {"timings_ms": timings.rounded(), "request_id": call.request_id}
        return {"model": self._model, **answer, **own}

    async def ready(self) -> bool:
        """Whether a slate sent now would find Redis and a live engine."""
        return await self._dispatcher.ready()

    def describe(self) -> dict[str, Any]:
        """What `GET /v1/models` says of the model and of the limits of a request."""
        limits = self._card.truncation
        return {
            "models": [
                {
                    **self._model,
                    "prompts": {
                        name: {"context_fields": list(prompt.fields)}
                        for name, prompt in self._card.prompts.items()
                    },
                    "default_prompt": self._card.default_prompt,
                    "limits": {
                        "max_candidates": self.settings.max_candidates,
                        "max_body_bytes": self.settings.max_body_bytes,
                        "max_context_tokens": limits.max_context_tokens,
                        "max_candidate_tokens": limits.max_candidate_tokens,
                        "max_deadline_ms": self.settings.max_deadline_ms,
                    },
                }
            ]
        }

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
        self,
        call: Call,
        arrived: float,
        tenant: Tenant,
        parse: Callable[[bytes, Settings], RankRequest],
    ) -> RankRequest:
        body = await self._body(call)
        if len(body) <= LONG_BODY_BYTES:
            return parse(body, self.settings)
        async with _deadline(Clock(arrived, self.settings.max_deadline_ms)):
            return await self._turns.run(tenant.name, parse, body, self.settings)

    async def _tokenize(self, request: RankRequest, tenant: Tenant) -> Slate:
        return await self._turns.run(
            tenant.name, encode_slate, request, self._card, self._prompt, tenant.salt
        )

    def _errand(self, tenant: Tenant, path: tuple[Level, ...], clock: Clock) -> Errand:
        deadline_ms = max(1, int(clock.remaining_ms))
        reply_to = self._dispatcher.reply_to
        return Errand(uuid.uuid4().hex, path, tenant.level, deadline_ms, reply_to)

    async def _score(self, slate: Slate, errand: Errand, request_id: str) -> Sequence[JobResult]:
        jobs = slate_jobs(slate, errand, self._card.block_size, self.settings.token_budget)
        tenant, job_ids = jobs[0].tenant, [job.job_id for job in jobs]
        with self._insight.following(tenant, request_id, job_ids):
            return await self._dispatcher.score(jobs)


@asynccontextmanager
async def _deadline(clock: Clock) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(clock.remaining_ms / 1000):
            yield
    except TimeoutError as error:
        raise DeadlineExceededError(
            f"not scored within deadline_ms {clock.deadline_ms}; send fewer candidates or allow "
            "more time",
            param="deadline_ms",
        ) from error
