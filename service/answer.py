"""Turns scored jobs into the answer of one slate. Knows nothing of who scored them, or how."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models.calibration import Calibration
from models.prompt import EncodedCandidate, EncodedContext
from service.jobs import JobResult
from service.metrics import Timings
from service.schemas import Candidate, RankRequest
from service.slate import Slate


def assemble(
    calibration: Calibration, request: RankRequest, slate: Slate, results: Sequence[JobResult]
) -> dict[str, Any]:
    """What an answer says of one slate; `results` are the slate's chunks in order."""
    logits = [logit for result in results for logit in result.scores.raw_logits]
    assert len(logits) == len(request.candidates), "an engine answers for every candidate"
    rows = [
        _row(index, candidate, encoded, logit, calibration.calibrate(logit))
        | (_document(candidate) if request.return_documents else {})
        for index, (candidate, encoded, logit) in enumerate(
            zip(request.candidates, slate.candidates, logits, strict=True)
        )
    ]
    return {
        "results": sorted(rows, key=lambda row: (-row["score"], row["index"]))[: request.top_n],
        **assemble_context(slate, results),
    }


def assemble_context(slate: Slate, results: Sequence[JobResult]) -> dict[str, Any]:
    """What an answer says of the slate's context, candidates or not."""
    return {"usage": usage(results), "context_status": _status(slate.context)}


def usage(results: Sequence[JobResult]) -> dict[str, int]:
    """Token counts over the jobs of one slate; the shared context counts once.

    `extend_tokens` is what engines computed: context - cached + candidates, and more only when the
    cache lost the context between two jobs of the slate.
    """
    scores = [result.scores for result in results]
    context_tokens = scores[0].context_tokens
    computed = sum(score.context_tokens - score.cached_tokens for score in scores)
    return {
        "context_tokens": context_tokens,
        "cached_tokens": max(0, context_tokens - computed),
        "candidate_tokens": sum(score.candidate_tokens for score in scores),
        "extend_tokens": sum(score.extend_tokens for score in scores),
    }


def stage_times(results: Sequence[JobResult], tokenize_ms: float, total_ms: float) -> Timings:
    """Queue lasts until the slate's first job is scored, score from there until its last one is."""
    queue_ms = min(result.queue_ms for result in results)
    scored_ms = max(result.queue_ms + result.score_ms for result in results)
    return Timings(queue_ms, tokenize_ms, scored_ms - queue_ms, total_ms)


def _row(
    index: int, candidate: Candidate, encoded: EncodedCandidate, logit: float, score: float
) -> dict[str, Any]:
    return {
        "id": candidate.id,
        "index": index,
        "score": score,
        "raw_logit": logit,
        "status": _status(encoded),
    }


def _document(candidate: Candidate) -> dict[str, Any]:
    document: dict[str, Any] = {"text": candidate.text}
    return document if candidate.metadata is None else document | {"metadata": candidate.metadata}


def _status(encoded: EncodedContext | EncodedCandidate) -> str:
    return "truncated" if encoded.truncated else "ok"
