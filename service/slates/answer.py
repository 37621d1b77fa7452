"""Turns scored jobs into the answer of one slate. Knows nothing of who scored them, or how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.calibration import AnyCalibration
from models.prompt import EncodedCandidate, EncodedContext
from service.bodies.schemas import Candidate, RankRequest
from service.jobs.jobs import JobResult
from service.metrics.metrics import Timings
from service.slates.slate import Logits, Slate, SlateScores


@dataclass(frozen=True, slots=True)
class Heads:
    """The heads of a model in order, calibrated for one tenant, and the one that ranks."""

    calibrations: Mapping[str, AnyCalibration]
    ranking: str

    def scored(self, logits: Logits) -> dict[str, Any]:
        """What a row says of one candidate: the ranking head's score, and all where several are."""
        by_head = dict(zip(self.calibrations, logits, strict=True))
        scores = {name: self.calibrations[name].calibrate(by_head[name]) for name in by_head}
        row = {"score": scores[self.ranking], "raw_logit": by_head[self.ranking]}
        return row | ({"scores": scores} if len(scores) > 1 else {})


def assemble(
    heads: Heads, request: RankRequest, slate: Slate, scores: SlateScores
) -> dict[str, Any]:
    """What an answer says of one slate.

    Sorted by the raw logit: calibration never reorders, but may tie what the model tells apart.
    """
    assert len(scores.rows) == len(request.candidates), "an engine answers for every candidate"
    rows = [
        _row(index, candidate, encoded, heads.scored(logits), request.return_documents)
        for index, (candidate, encoded, logits) in enumerate(
            zip(request.candidates, slate.candidates, scores.rows, strict=True)
        )
    ]
    ordered = sorted(rows, key=lambda row: (-row["raw_logit"], row["index"]))
    return {
        "ranked_by": heads.ranking,
        "results": ordered[: request.top_n],
        **assemble_context(slate, scores),
    }


def assemble_context(slate: Slate, scores: SlateScores) -> dict[str, Any]:
    """What an answer says of the slate's context, candidates or not."""
    counts = usage(len(slate.context.ids), scores.results)
    return {
        "usage": counts | {"reused_candidates": scores.reused},
        "context_status": text_status(slate.context),
    }


def usage(context_tokens: int, results: Sequence[JobResult]) -> dict[str, int]:
    """Token counts over the jobs of one slate; the shared context counts once.

    `extend_tokens` is what engines computed: context - cached + candidates, and more only when the
    cache lost the context between two jobs of the slate. Without a job nothing was computed.
    """
    answers = [result.answer for result in results]
    computed = sum(answer.context_tokens - answer.cached_tokens for answer in answers)
    return {
        "context_tokens": context_tokens,
        "cached_tokens": max(0, context_tokens - computed),
        "candidate_tokens": sum(answer.candidate_tokens for answer in answers),
        "extend_tokens": sum(answer.extend_tokens for answer in answers),
    }


def stage_times(results: Sequence[JobResult], tokenize_ms: float, total_ms: float) -> Timings:
    """Queue lasts until the slate's first job is scored, score from there until its last one is."""
    queue_ms = min((result.queue_ms for result in results), default=0.0)
    scored_ms = max((result.queue_ms + result.score_ms for result in results), default=0.0)
    return Timings(queue_ms, tokenize_ms, scored_ms - queue_ms, total_ms)


def _row(
    index: int,
    candidate: Candidate,
    encoded: EncodedCandidate,
    scored: Mapping[str, Any],
    with_document: bool,
) -> dict[str, Any]:
    row = {"id": candidate.id, "index": index, **scored, "status": text_status(encoded)}
    return row | (_document(candidate) if with_document else {})


def _document(candidate: Candidate) -> dict[str, Any]:
    kind = "text" if candidate.embedding is None else "embedding"
    document: dict[str, Any] = {kind: getattr(candidate, kind)}
    return document if candidate.metadata is None else document | {"metadata": candidate.metadata}


def text_status(encoded: EncodedContext | EncodedCandidate) -> str:
    """Whether all of a text was read."""
    return "truncated" if encoded.truncated else "ok"
