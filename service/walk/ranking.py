"""The walk of one request for scores: who, what, tokens, scores, answer. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic

from models.card import ModelCard
from models.catalogue import Catalogue
from models.prompt import PromptBuilder
from service.base.config import Settings
from service.bodies.schemas import ContextRequest, RankRequest
from service.bodies.validation import parse_context_request, parse_rank_request, ranking_head
from service.metrics.metrics import Timings
from service.slates.answer import Heads, assemble, assemble_context, stage_times
from service.slates.described import describe_card, identify, label_ids
from service.slates.reuse import Reuse
from service.slates.slate import (
    Slate,
    SlateScores,
    encode_slate,
    is_brief,
    refuse_too_many,
    slate_jobs,
)
from service.slates.token_memory import TokenMemory
from service.tenants.tenants import Tenant
from service.walk.reception import Admitted, Asked, Call, Reception, deadline

Parse = Callable[[bytes, Settings], RankRequest]


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
        reception: Reception,
        card: ModelCard,
        prompt: PromptBuilder,
        catalogue: Catalogue | None = None,
    ) -> None:
        self.settings = settings = reception.settings
        self.reception = reception
        self._card = card
        self._prompt = prompt
        self._catalogue = catalogue
        digest = catalogue.digest if catalogue else ""
        self._reuse = Reuse(settings.score_cache_bytes, settings.score_cache_seconds, digest)
        self._model = identify(card)
        self._memory = TokenMemory(settings.token_memory_bytes)

    async def rank(self, call: Call, parse: Parse = parse_rank_request) -> dict[str, Any]:
        """Raises FairslateError; a cancelled call takes its jobs out of the queue."""
        tenant, metrics = self.reception.authenticate(call.authorization), self.reception.metrics
        with metrics.failures_of(tenant.name):
            walk = await self._walk(call, tenant, partial(self._parse_rank, parse))
            heads = self._heads(walk.request, tenant)
            answer = assemble(heads, walk.request, walk.slate, walk.scores)
        metrics.answered(
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
        tenant, metrics = self.reception.authenticate(call.authorization), self.reception.metrics
        with metrics.failures_of(tenant.name):
            walk = await self._walk(call, tenant, parse_context_request)
        answer = assemble_context(walk.slate, walk.scores)
        metrics.prewarmed(tenant.name, answer["usage"])
        return self._envelope(call, walk.timings, answer)

    def describe(self) -> dict[str, Any]:
        """What `GET /v1/models` says of the model and of the limits of a request."""
        return {
            **self._model,
            **describe_card(self._card, self.settings.max_candidates, self.settings),
            "heads": list(self._card.scoring_heads),
            "label_token_ids": label_ids(self._prompt),
            "catalogue": self._catalogue and self._catalogue.describe(),
            **self.reception.board.describe(),
        }

    async def _walk(
        self, call: Call, tenant: Tenant, parse: Callable[[bytes, Settings], Asked]
    ) -> Walk[Asked]:
        admitted = await self.reception.admit(call, tenant, parse, partial(self._tokens, tenant))
        async with deadline(admitted.clock):
            scores = await self._score(admitted, call.request_id)
        total_ms = admitted.clock.elapsed_ms
        timings = stage_times(scores.results, admitted.tokenize_ms, total_ms)
        return Walk(admitted.request, admitted.tokens, scores, timings)

    def _parse_rank(self, parse: Parse, body: bytes, settings: Settings) -> RankRequest:
        request = parse(body, settings)
        ranking_head(request.rank_by, list(self._card.scoring_heads))
        return request

    def _heads(self, request: RankRequest, tenant: Tenant) -> Heads:
        names = list(self._card.scoring_heads)
        calibrations = {name: self._card.calibration_of(name, tenant.name) for name in names}
        return Heads(calibrations, ranking_head(request.rank_by, names))

    def _envelope(self, call: Call, timings: Timings, answer: dict[str, Any]) -> dict[str, Any]:
        own = {"timings_ms": timings.rounded(), "request_id": call.request_id}
        return {"model": self._model, **answer, **own}

    async def _tokens(self, tenant: Tenant, request: ContextRequest) -> Slate:
        salt = tenant.salt
        encode = partial(
            encode_slate, request, self._card, self._prompt, salt, self._catalogue, self._memory
        )
        if is_brief(request, self._prompt, salt, self._memory):
            return encode()
        return await self.reception.in_turn(tenant, encode)

    async def _score(self, admitted: Admitted[Asked, Slate], request_id: str) -> SlateScores:
        slate = admitted.tokens
        known = self._reuse.recall(slate)
        if known and len(known) == len(slate.candidates):
            return self._reuse.complete(slate, known, [])
        rest, budget = slate.without(known), self.settings.token_budget
        jobs = slate_jobs(rest, admitted.errand, self._card.block_size, budget)
        refuse_too_many(jobs, self.settings.most_jobs)
        results = await self.reception.send(jobs, request_id)
        return self._reuse.complete(slate, known, results)
