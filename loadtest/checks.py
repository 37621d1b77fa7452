"""Finds what is wrong with one answer of rank or reason. Knows nothing of HTTP or load."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

STATUSES = ("ok", "truncated")

Results = Callable[[dict[str, Any], list[dict[str, Any]]], None]


class WrongAnswerError(Exception):
    """A 200 whose body breaks the API's contract."""


def require(holds: bool, complaint: str) -> None:
    """Raises WrongAnswerError with `complaint` unless `holds`."""
    if not holds:
        raise WrongAnswerError(complaint)


class AnswerChecker:
    """Checks answers of one kind one by one; all must come from the model of the first.

    results: `check_results` or `check_reasons`, of the request and the rows of its answer.
    """

    def __init__(self, results: Results | None = None) -> None:
        self._digest: str | None = None
        self._results = results or check_results

    def check(self, request: dict[str, Any], answer: dict[str, Any]) -> None:
        """Raises WrongAnswerError naming the first broken promise."""
        try:
            self._results(request, answer["results"])
            check_usage(answer["usage"])
            check_times(answer["timings_ms"])
            self._check_model(answer["model"])
            require(bool(answer["request_id"]), "request_id is empty")
        except (KeyError, TypeError, IndexError) as error:
            raise WrongAnswerError(f"malformed answer: {error!r}") from error

    def _check_model(self, model: dict[str, Any]) -> None:
        self._digest = self._digest or model["digest"]
        require(model["digest"] == self._digest, "the model's digest changed between answers")


def check_results(request: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """Every candidate once (or the best `top_n`), under its own id, best score first."""
    candidates = request["candidates"]
    expected = min(len(candidates), request.get("top_n", len(candidates)))
    require(len(results) == expected, f"{len(results)} results, expected {expected}")
    require(len({row["index"] for row in results}) == expected, "an index stands twice")
    for row in results:
        require(row["id"] == candidates[row["index"]]["id"], f"id and index differ: {row}")
        require(0.0 <= row["score"] <= 1.0, f"score out of range: {row}")
        require(row["status"] in STATUSES, f"unknown status: {row}")
    order = [(-row["score"], row["index"]) for row in results]
    require(order == sorted(order), "results are not sorted by score, then index")


def check_reasons(request: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """Every candidate once, in order, with a sentence that quotes what either text states."""
    candidates = request["candidates"]
    names = [candidate["id"] for candidate in candidates]
    require([row["id"] for row in results] == names, "results are not the candidates in order")
    for row, candidate in zip(results, candidates, strict=True):
        require(row["status"] in (*STATUSES, "no_fact"), f"unknown status: {row}")
        require((row["reason"] is None) == (row["status"] == "no_fact"), f"no reason: {row}")
        if row["reason"] is not None:
            for side, text in (("context", request["context"]), ("candidate", candidate["text"])):
                fact = row["facts"][side]["text"]
                require(fact in text, f"the {side} does not state it: {row}")
                require(f"\u201c{fact}\u201d" in row["reason"], f"not quoted: {row}")


def check_usage(usage: dict[str, int]) -> None:
    """extend = context - cached + candidates, and no count is negative."""
    context, cached = usage["context_tokens"], usage["cached_tokens"]
    require(0 <= cached <= context, f"cached_tokens out of range: {usage}")
    require(usage["candidate_tokens"] > 0, f"candidates without tokens: {usage}")
    computed = context - cached + usage["candidate_tokens"]
    require(usage["extend_tokens"] == computed, f"extend_tokens is not {computed}: {usage}")


def check_times(times: dict[str, float]) -> None:
    """No stage takes longer than the whole."""
    stages = [times[stage] for stage in ("queue", "tokenize", "score")]
    require(min(stages) >= 0, f"a negative time: {times}")
    require(max(stages) <= times["total"], f"a stage longer than the total: {times}")


def reason_of(body: str) -> str:
    """The code and message of a refusal: the same for all that are refused for one reason."""
    try:
        error = json.loads(body)["error"]
        said = f"{error['code']}: {error['message']}"
    except (ValueError, TypeError, KeyError):
        return body
    return f"{said}; name keys by --api-keys" if error["code"] == "invalid_api_key" else said
