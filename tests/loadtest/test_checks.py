"""Each promise of an answer, broken once, is noticed. Knows nothing of a server."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from loadtest.checks import AnswerChecker, WrongAnswerError, check_reasons, reason_of

REQUEST = {
    "context": "Welder",
    "candidates": [{"id": name, "text": name} for name in ("a", "b", "c")],
}
ANSWER: dict[str, Any] = {
    "model": {"name": "demo", "version": "1", "digest": "f00d"},
    "results": [
        {"id": "c", "index": 2, "score": 0.9, "raw_logit": 2.0, "status": "ok"},
        {"id": "a", "index": 0, "score": 0.5, "raw_logit": 0.0, "status": "truncated"},
        {"id": "b", "index": 1, "score": 0.5, "raw_logit": 0.0, "status": "ok"},
    ],
    "usage": {
        "context_tokens": 10,
        "cached_tokens": 4,
        "candidate_tokens": 30,
        "extend_tokens": 36,
    },
    "timings_ms": {"queue": 0.5, "tokenize": 0.2, "score": 4.0, "total": 5.0},
    "request_id": "r-1",
}


def put(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(answer: dict[str, Any]) -> None:
        place: Any = answer
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return change


BROKEN: dict[str, Callable[[dict[str, Any]], None]] = {
    "2 results, expected 3": lambda answer: answer["results"].pop(),
    "an index stands twice": put("results", 2, "index", value=0),
    "id and index differ": put("results", 0, "id", value="b"),
    "score out of range": put("results", 0, "score", value=1.2),
    "unknown status": put("results", 0, "status", value="fine"),
    "not sorted": put("results", 0, "score", value=0.4),
    "then index": lambda answer: answer["results"].append(answer["results"].pop(1)),
    "cached_tokens out of range": put("usage", "cached_tokens", value=11),
    "candidates without tokens": put("usage", "candidate_tokens", value=0),
    "extend_tokens is not 36": put("usage", "extend_tokens", value=40),
    "a negative time": put("timings_ms", "queue", value=-0.1),
    "a stage longer than the total": put("timings_ms", "score", value=6.0),
    "malformed answer: KeyError": lambda answer: answer.pop("usage"),
    "malformed answer: TypeError": put("results", 0, "score", value=None),
    "request_id is empty": put("request_id", value=""),
    "digest changed": put("model", "digest", value="beef"),
}


def test_a_right_answer_passes() -> None:
    AnswerChecker().check(REQUEST, ANSWER)
    best = ANSWER | {"results": ANSWER["results"][:2]}
    AnswerChecker().check(REQUEST | {"top_n": 2}, best)


@pytest.mark.parametrize("complaint", BROKEN)
def test_a_wrong_answer_is_named(complaint: str) -> None:
    checker, answer = AnswerChecker(), copy.deepcopy(ANSWER)
    checker.check(REQUEST, answer)
    BROKEN[complaint](answer)
    with pytest.raises(WrongAnswerError, match=complaint):
        checker.check(REQUEST, answer)


REASONS_REQUEST = {
    "context": "Skills: Writing.",
    "candidates": [{"id": "a", "text": "Editor."}, {"id": "b", "text": "??"}],
}
REASONS: list[dict[str, Any]] = [
    {
        "id": "a",
        "index": 0,
        "reason": "The skill “Writing” fits the title “Editor”.",
        "facts": {"context": {"text": "Writing"}, "candidate": {"text": "Editor"}},
        "status": "ok",
    },
    {"id": "b", "index": 1, "reason": None, "facts": None, "status": "no_fact"},
]
BROKEN_REASONS: dict[str, Callable[[dict[str, Any]], None]] = {
    "not the candidates in order": lambda answer: answer["results"].reverse(),
    "unknown status": put("results", 0, "status", value="fine"),
    "no reason": put("results", 0, "reason", value=None),
    "the context does not state it": put("results", 0, "facts", "context", "text", value="Sewing"),
    "the candidate does not state": put("results", 0, "facts", "candidate", "text", value="Nurse"),
    "not quoted": put("results", 0, "reason", value="The skill “Writing” helps."),
}


def test_good_reasons_pass() -> None:
    AnswerChecker(check_reasons).check(REASONS_REQUEST, ANSWER | {"results": REASONS})


@pytest.mark.parametrize("complaint", BROKEN_REASONS)
def test_every_promise_of_a_reason_is_checked(complaint: str) -> None:
    answer = copy.deepcopy(ANSWER | {"results": REASONS})
    BROKEN_REASONS[complaint](answer)
    with pytest.raises(WrongAnswerError, match=complaint):
        AnswerChecker(check_reasons).check(REASONS_REQUEST, answer)


def test_refusals_for_one_reason_read_alike_whatever_the_request() -> None:
    def body(request_id: str, code: str) -> str:
        return json.dumps({"error": {"code": code, "message": "no", "request_id": request_id}})

    assert (
        reason_of(body("a", "queue_full")) == reason_of(body("b", "queue_full")) == "queue_full: no"
    )
    assert reason_of(body("a", "invalid_api_key")).endswith("name keys by --api-keys")
    assert [reason_of(text) for text in ("", "[]", "<html>")] == ["", "[]", "<html>"]
