"""The walk of one request: who, what, tokens, scores, answer. Knows nothing of HTTP or Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from models.card import ModelCard
from models.catalogue import Catalogue
from models.prompt import PromptBuilder
from service.answer import Heads, assemble, assemble_context, stage_times
from service.config import Settings
from service.engine_board import EngineBoard
from service.errors import BodyTimeoutError, UnauthorizedError
from service.fallback import Fallback
from service.gate.errors import DeadlineExceededError
from service.gate.job import Level, tenant_id
from service.insight import Insight
from service.metrics import Metrics, Timings
from service.names import new_name
from service.refusals import Refusals
from service.reuse import Reuse
from service.schemas import ContextRequest, RankRequest
from service.slate import Errand, Slate, SlateScores, encode_slate, is_brief, slate_jobs
from service.tenants import Tenant, Tenants
from service.token_memory import TokenMemory
from service.turns import Turns
from service.validation import parse_context_request, parse_rank_request, ranking_head

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


@dataclass(frozen=True, slots=True)
class Walk(Generic[Asked]):
    """One request on its way back: what was asked, as tokens, its scores, its times."""

    request: Asked
    slate: Slate
    scores: SlateScores
    timings: Timings


class Ranker:
    """Answers calls for one model; safe to call from many tasks of one event loop."""

    def __init__(
        self,
        settings: Settings,
        card: ModelCard,
        prompt: PromptBuilder,
        tenants: Tenants,
        gate: Fallback,
        insight: Insight,
        metrics: Metrics,
        board: EngineBoard,
        catalogue: Catalogue | None = None,
    ) -> None:
        self.settings = settings
        self._card = card
        self._prompt = prompt
        self._tenants = tenants
        self._gate = gate
        self._insight = insight
        self._metrics = metrics
        self._board = board
        self._catalogue = catalogue
        digest = catalogue.digest if catalogue else ""
        self._reuse = Reuse(settings.score_cache_bytes, settings.score_cache_seconds, digest)
        # Once: a digest is a hash over the whole card.
        self._model = {"name": card.name, "version": card.version, "digest": card.digest}
        self._turns = Turns(settings.tokenizer_threads, settings.max_tenant_waiting)
        self._refusals = Refusals()
        self._memory = TokenMemory(settings.token_memory_bytes)

    async def rank(self, call: Call) -> dict[str, Any]:
        """Raises FairslateError; a cancelled call takes its jobs out of the queue."""
        tenant = self._tenants.authenticate(call.authorization)
        with self._metrics.failures_of(tenant.name):
            walk = await self._walk(call, tenant, self._parse_rank)
            heads = self._heads(walk.request, tenant)
            answer = assemble(heads, walk.request, walk.slate, walk.scores)
        self._metrics.answered(
            tenant.name,
            walk.timings,
            answer["usage"],
            len(walk.request.candidates),
            sum(result.overtaken for result in walk.scores.results),
        )
        return self._envelope(call, walk.timings, answer)

    async def prewarm(self, call: Call) -> dict[str, Any]:
        """Has an engine read a context ahead of its slate; charged as a slate of no candidates.

        Raises and is cancelled as `rank`.
        """
        tenant = self._tenants.authenticate(call.authorization)
        with self._metrics.failures_of(tenant.name):
            walk = await self._walk(call, tenant, parse_context_request)
        answer = assemble_context(walk.slate, walk.scores)
        self._metrics.prewarmed(tenant.name, answer["usage"])
        return self._envelope(call, walk.timings, answer)

    def refuse_unread(self, authorization: str | None) -> None:
        """Raises TenantThrottledError for a tenant that was refused a moment ago, and counts it.

        A key that nobody has is left to `rank`.
        """
        with suppress(UnauthorizedError):
            tenant = self._tenants.authenticate(authorization)
            with self._metrics.failures_of(tenant.name):
                self._refuse(tenant, tenant.nodes)

    async def ready(self) -> bool:
        """Whether a slate sent now would find Redis and a live engine."""
        return await self._gate.ready()

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
                    "heads": list(self._card.scoring_heads),
                    "catalogue": self._catalogue and self._catalogue.describe(),
                    **self._board.describe(),
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

    async def _walk(
        self, call: Call, tenant: Tenant, parse: Callable[[bytes, Settings], Asked]
    ) -> Walk[Asked]:
        request = await self._parsed(call, tenant, parse)
        path = tenant.path(request.user, request.priority)
        self._refusals.check([tenant_id(path, tenant.level)])
        clock = Clock(call.arrived, request.deadline_ms or self.settings.default_deadline_ms)
        async with _deadline(clock):
            parsed_ms = clock.elapsed_ms
            slate = await self._tokenize(request, tenant)
            tokenize_ms = clock.elapsed_ms - parsed_ms
            errand = self._errand(tenant, path, clock)
            scores = await self._score(slate, errand, call.request_id)
        timings = stage_times(scores.results, tokenize_ms, clock.elapsed_ms)
        return Walk(request, slate, scores, timings)

    def _parse_rank(self, body: bytes, settings: Settings) -> RankRequest:
        request = parse_rank_request(body, settings)
        ranking_head(request.rank_by, list(self._card.scoring_heads))
        return request

    def _heads(self, request: RankRequest, tenant: Tenant) -> Heads:
        names = list(self._card.scoring_heads)
        calibrations = {name: self._card.calibration_of(name, tenant.name) for name in names}
        return Heads(calibrations, ranking_head(request.rank_by, names))

    def _envelope(self, call: Call, timings: Timings, answer: dict[str, Any]) -> dict[str, Any]:
        own = {"timings_ms": timings.rounded(), "request_id": call.request_id}
        return {"model": self._model, **answer, **own}

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
        # Before a body is parsed that would only be refused.
        names_class = any(field in body for field in CLASS_FIELDS)
        self._refuse(tenant, tenant.nodes if names_class else tenant.nodes[:1])
        if len(body) <= LONG_BODY_BYTES:
            return parse(body, self.settings)
        async with _deadline(Clock(call.arrived, self.settings.max_deadline_ms)):
            return await self._turns.run(tenant.name, parse, body, self.settings)

    def _refuse(self, tenant: Tenant, nodes: Sequence[str]) -> None:
        """Raises TenantThrottledError while every node that a job may be of refuses it."""
        self._turns.check(tenant.name)
        self._refusals.check(nodes)

    async def _tokenize(self, request: ContextRequest, tenant: Tenant) -> Slate:
        salt = tenant.salt
        encode = partial(
            encode_slate, request, self._card, self._prompt, salt, self._catalogue, self._memory
        )
        if is_brief(request, self._prompt, salt, self._memory):
            return encode()
        return await self._turns.run(tenant.name, encode)

    def _errand(self, tenant: Tenant, path: tuple[Level, ...], clock: Clock) -> Errand:
        deadline_ms = max(1, int(clock.remaining_ms))
        reply_to = self._gate.reply_to
        return Errand(new_name(), path, tenant.level, deadline_ms, reply_to)

    async def _score(self, slate: Slate, errand: Errand, request_id: str) -> SlateScores:
        known = self._reuse.recall(slate)
        if known and len(known) == len(slate.candidates):
            return self._reuse.complete(slate, known, [])
        rest = slate.without(known)
        jobs = slate_jobs(rest, errand, self._card.block_size, self.settings.token_budget)
        job_ids = [job.job_id for job in jobs]
        following = self._insight.following(jobs[0].tenant, request_id, job_ids)
        with following, self._refusals.noting(jobs[0].tenant_id):
            results = await self._gate.score(jobs)
        for result in results:
            if result.report:
                self._board.hear(result.report)
        return self._reuse.complete(slate, known, results)


@asynccontextmanager
async def _deadline(clock: Clock) -> AsyncIterator[None]:
    with suppress(TimeoutError):
        async with asyncio.timeout(clock.remaining_ms / 1000):
            yield
        return
    # Not out of the TimeoutError: its traceback holds asyncio's Timeout, which holds the task that
    # will hold this error, a circle for each missed deadline.
    raise DeadlineExceededError(
        f"not scored within deadline_ms {clock.deadline_ms}; send fewer candidates or allow more "
        "time",
        param="deadline_ms",
    )
