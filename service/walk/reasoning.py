"""The walk of one request for reasons: who, what, tokens, sentences, answer. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from models.card import ModelCard
from models.engines.base import JobScores, Written
from models.prompt import PromptBuilder
from models.reasons.grammar import ReasonTokens
from service.bodies.schemas import ReasonRequest
from service.bodies.validation import parse_reason_request
from service.gate.job import Job
from service.jobs.jobs import JobResult
from service.slates.answer import stage_times, text_status, usage
from service.slates.described import describe_card, identify
from service.slates.reasons import (
    ReasonSlate,
    encode_reasons,
    reason_jobs,
    reason_row,
)
from service.tenants.tenants import Tenant
from service.walk.reception import Admitted, Call, Reception, deadline

Row = dict[str, Any]
_Asked = Admitted[ReasonRequest, ReasonSlate]


class Reasoner:
    """Answers calls for one reasoner; safe to call from many tasks of one event loop."""

    def __init__(self, reception: Reception, card: ModelCard, prompt: PromptBuilder) -> None:
        self._reception = reception
        self._card = card
        self._prompt = prompt
        self._tokens = ReasonTokens(prompt)
        self._model = identify(card)

    async def reason(self, call: Call, tell: Callable[[Row], object] = lambda _: None) -> Row:
        """The whole answer. Raises FairslateError; a cancelled call's jobs leave the queue.

        tell: is told of each candidate's row as soon as it is written.
        """
        tenant, metrics = self._reception.authenticate(call.authorization), self._reception.metrics
        with metrics.failures_of(tenant.name):
            encode = partial(self._encoded, tenant)
            asked = await self._reception.admit(call, tenant, parse_reason_request, encode)
            async with deadline(asked.clock):
                rows, results = await self._written(tenant, asked, call.request_id, tell)
        timings = stage_times(results, asked.tokenize_ms, asked.clock.elapsed_ms)
        written = [result.answer for result in results if isinstance(result.answer, Written)]
        counts = usage(len(asked.tokens.context.ids), results)
        counts["output_tokens"] = sum(answer.output_tokens for answer in written)
        metrics.reasoned(tenant.name, timings, counts, sum(one.overtaken for one in results))
        return {
            "model": self._model,
            "results": rows,
            "usage": counts,
            "context_status": text_status(asked.tokens.context),
            "timings_ms": timings.rounded(),
            "request_id": call.request_id,
        }

    def describe(self) -> dict[str, Any]:
        """What `GET /v1/models` says of the reasoner and of the limits of a request."""
        settings = self._reception.settings
        return self._model | describe_card(self._card, settings.most_reasons, settings)

    async def _encoded(self, tenant: Tenant, request: ReasonRequest) -> ReasonSlate:
        work = partial(encode_reasons, request, self._card, self._prompt, self._tokens, tenant.salt)
        return await self._reception.in_turn(tenant, work)

    async def _written(
        self, tenant: Tenant, asked: _Asked, request_id: str, tell: Callable[[Row], object]
    ) -> tuple[list[Row], Sequence[JobResult]]:
        """Rows in the order of the candidates; those of whom nothing can be said are told last."""
        jobs = await self._reception.in_turn(tenant, partial(self._jobs, asked))
        indices = {job.job_id: index for index, job in jobs.items()}
        rows: dict[int, Row] = {}

        def hear(job_id: str, result: JobResult) -> None:
            index = indices[job_id]
            rows[index] = _row(asked, index, result)
            tell(rows[index])

        sent = list(jobs.values())
        results = await self._reception.send(sent, request_id, hear) if sent else []
        found = dict(zip(jobs, results, strict=True))
        for index in range(len(asked.request.candidates)):
            if index not in rows:  # without a job, or hearing of it failed and does so here
                rows[index] = _row(asked, index, found.get(index))
                tell(rows[index])
        return [rows[index] for index in sorted(rows)], results

    def _jobs(self, asked: _Asked) -> dict[int, Job]:
        return dict(reason_jobs(asked.tokens, asked.errand, self._card.block_size))


def _row(asked: _Asked, index: int, result: JobResult | None) -> Row:
    answer = result.answer if result else None
    assert not isinstance(answer, JobScores), "an engine answers what it was asked"
    return reason_row(asked.tokens, index, asked.request.candidates[index].id, answer)
