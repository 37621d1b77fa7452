"""Token counts and times add up over the chunks of a slate; rows carry every head's score."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from models.calibration import AnyCalibration, Calibration
from models.engines.base import JobScores
from models.isotonic import IsotonicCalibration
from models.prompt import EncodedCandidate, EncodedContext
from service.bodies.schemas import Candidate, RankRequest
from service.jobs.jobs import JobResult
from service.slates.answer import Heads, assemble, stage_times, usage
from service.slates.slate import Logits, Slate, SlateScores


def result(cached: int, candidate: int, queue_ms: float = 0.0, score_ms: float = 0.0) -> JobResult:
    return JobResult(JobScores((0.0,), 100, cached, candidate), queue_ms, score_ms)


@given(st.integers(0, 100), st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_later_chunks_find_the_context_cached(cached: int, candidates: list[int]) -> None:
    results = [
        result(cached if index == 0 else 100, tokens) for index, tokens in enumerate(candidates)
    ]
    assert usage(100, results) == {
        "context_tokens": 100,
        "cached_tokens": cached,
        "candidate_tokens": sum(candidates),
        "extend_tokens": 100 - cached + sum(candidates),
    }


def test_context_computed_twice_is_charged_twice() -> None:
    counts = usage(100, [result(0, 10), result(0, 10)])
    assert counts["extend_tokens"] == 220
    assert counts["cached_tokens"] == 0


def test_queue_ends_when_the_first_chunk_starts() -> None:
    results = [result(0, 1, queue_ms=5, score_ms=10), result(0, 1, queue_ms=16, score_ms=4)]
    times = stage_times(results, tokenize_ms=2, total_ms=30)
    assert (times.queue, times.score, times.tokenize, times.total) == (5, 15, 2, 30)


def test_a_slate_that_no_engine_saw_computed_nothing() -> None:
    counts = usage(100, [])
    assert (counts["cached_tokens"], counts["extend_tokens"], counts["candidate_tokens"]) == (
        100,
        0,
        0,
    )
    times = stage_times([], tokenize_ms=2, total_ms=3)
    assert (times.queue, times.score, times.total) == (0, 0, 3)


CLICK = Calibration(scale=1.0)
APPLY = IsotonicCalibration((-1.0, 1.0), (0.1, 0.3))


def answered(rows: list[Logits], ranking: str, **heads: AnyCalibration) -> list[dict[str, Any]]:
    candidates = [Candidate(id=str(index), text="Job") for index in range(len(rows))]
    slate = Slate(
        EncodedContext((1,), False), ("00",), tuple(EncodedCandidate((2,), False) for _ in rows)
    )
    request = RankRequest(context="Nurse", candidates=candidates)
    scores = SlateScores(tuple(rows), 0, [result(0, len(rows))])
    answer = assemble(Heads(heads, ranking), request, slate, scores)
    assert answer["ranked_by"] == ranking
    results: list[dict[str, Any]] = answer["results"]
    return results


def test_every_head_is_answered_and_one_ranks() -> None:
    rows: list[Logits] = [(0.0, 3.0), (2.0, 0.0)]
    by_click = answered(rows, "click", click=CLICK, apply=APPLY)
    by_apply = answered(rows, "apply", click=CLICK, apply=APPLY)
    assert [row["id"] for row in by_click] == ["1", "0"]
    assert [row["id"] for row in by_apply] == ["0", "1"]
    assert by_apply[0] == {
        "id": "0",
        "index": 0,
        "score": 0.3,
        "raw_logit": 3.0,
        "scores": {"click": 0.5, "apply": 0.3},
        "status": "ok",
    }
    assert by_click[1]["score"] == 0.5
    assert by_click[1]["scores"] == by_apply[0]["scores"]


def test_a_model_with_one_head_repeats_no_score() -> None:
    (row,) = answered([(1.0,)], "score", score=CLICK)
    assert "scores" not in row


def test_what_calibration_ties_stays_in_the_models_order() -> None:
    tied = answered([(5.0,), (7.0,), (6.0,), (7.0,)], "apply", apply=APPLY)
    assert {row["score"] for row in tied} == {0.3}
    assert [row["id"] for row in tied] == ["1", "3", "2", "0"]
    saturated = answered([(900.0,), (901.0,)], "click", click=CLICK)
    assert [row["id"] for row in saturated] == ["1", "0"]
