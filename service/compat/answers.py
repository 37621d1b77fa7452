"""Answers of other services' routes, from the native one. Knows nothing of requests."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, RootModel

from service.bodies.schemas import ServedModel, StageTimes, Strict, Usage

Answer = dict[str, Any]  # of `Ranker.rank`
Row = dict[str, Any]


class TokenUsage(Usage):
    """The native counts, and their sum under the names that clients look for."""

    prompt_tokens: int
    total_tokens: int


class DocumentText(Strict):
    """A document as it was sent."""

    text: str


class RerankResult(Strict):
    """One row of an answer."""

    index: int
    relevance_score: float = Field(description="Calibrated probability, or log-odds if asked for.")
    status: Literal["ok", "truncated"]
    document: DocumentText | None = None


class ForeignAnswer(Strict):
    """What every answer but TEI's bare list has beside its rows."""

    id: str = Field(description="Of the request, as in `x-request-id`.")
    object: str
    created: int = Field(description="Seconds since 1970.")
    model: str
    served: ServedModel
    usage: TokenUsage
    timings_ms: StageTimes
    context_status: Literal["ok", "truncated"]


class RerankAnswer(ForeignAnswer):
    """Body of a 200 from `POST /v1/rerank`, results best first."""

    results: list[RerankResult]


class TextRow(Strict):
    """One row of an answer."""

    index: int
    score: float = Field(description="Calibrated probability, or log-odds if asked for.")
    text: str | None = None


class TextsAnswer(RootModel[list[TextRow]]):
    """Body of a 200 from `POST /rerank` to whom sent TEI's body, best first."""


class ScoreRow(Strict):
    """One row of an answer."""

    index: int
    object: Literal["score"]
    score: float = Field(description="Calibrated probability, or log-odds if asked for.")
    status: Literal["ok", "truncated"]


class PairsAnswer(ForeignAnswer):
    """Body of a 200 from `POST /v1/score` to whom sent vLLM's body, in the order of documents."""

    data: list[ScoreRow]


class ItemsAnswer(ForeignAnswer):
    """Body of a 200 from `POST /v1/score` to whom sent SGLang's body, in the order of items."""

    scores: list[list[float]] = Field(description="A column for each label, or the one score.")
    truncated: list[int] = Field(description="Items that were cut.")


def reranked(answer: Answer, *, raw: bool) -> Answer:
    """As Cohere, Jina, vLLM and Infinity word it."""
    rows = [
        {"index": row["index"], "relevance_score": value(row, raw), "status": row["status"]}
        | ({"document": {"text": row["text"]}} if "text" in row else {})
        for row in answer["results"]
    ]
    return _common("rerank", answer) | {"results": rows}


def listed(answer: Answer, *, raw: bool) -> list[Row]:
    """As TEI words it."""
    return [
        {"index": row["index"], "score": value(row, raw)}
        | ({"text": row["text"]} if "text" in row else {})
        for row in answer["results"]
    ]


def paired(answer: Answer, *, raw: bool) -> Answer:
    """As vLLM words scores."""
    data = [
        {
            "index": row["index"],
            "object": "score",
            "score": value(row, raw),
            "status": row["status"],
        }
        for row in _as_sent(answer)
    ]
    return _common("list", answer) | {"data": data}


def columns(answer: Answer, *, yes: Sequence[bool] | None) -> Answer:
    """As SGLang words scores. yes: of every label, whether it is the better one; None for none."""
    rows = _as_sent(answer)
    scores = [[row["score"]] if yes is None else shares(row["raw_logit"], yes) for row in rows]
    cut = [row["index"] for row in rows if row["status"] == "truncated"]
    return _common("scoring", answer) | {"scores": scores, "truncated": cut}


def shares(log_odds: float, yes: Sequence[bool]) -> list[float]:
    """Softmax over labels whose logits are log_odds for yes and 0 for no."""
    highest = max(log_odds if better else 0.0 for better in yes)
    weights = [math.exp((log_odds if better else 0.0) - highest) for better in yes]
    total = sum(weights)
    return [weight / total for weight in weights]


def value(row: Row, raw: bool) -> float:
    """What is told of a candidate."""
    number: float = row["raw_logit"] if raw else row["score"]
    return number


def _as_sent(answer: Answer) -> list[Row]:
    return sorted(answer["results"], key=lambda row: row["index"])


def _common(kind: str, answer: Answer) -> Answer:
    usage = answer["usage"]
    tokens = usage["context_tokens"] + usage["candidate_tokens"]
    return {
        "id": answer["request_id"],
        "object": kind,
        "created": int(time.time()),
        "model": answer["model"]["name"],
        "served": answer["model"],
        "usage": usage | {"prompt_tokens": tokens, "total_tokens": tokens},
        "timings_ms": answer["timings_ms"],
        "context_status": answer["context_status"],
    }
