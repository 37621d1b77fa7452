"""Token counts and times of a slate add up over its chunks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from models.engines.base import JobScores
from service.answer import stage_times, usage
from service.jobs import JobResult


def result(cached: int, candidate: int, queue_ms: float = 0.0, score_ms: float = 0.0) -> JobResult:
    return JobResult(JobScores((0.0,), 100, cached, candidate), queue_ms, score_ms)


@given(st.integers(0, 100), st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_later_chunks_find_the_context_cached(cached: int, candidates: list[int]) -> None:
    results = [
        result(cached if index == 0 else 100, tokens) for index, tokens in enumerate(candidates)
    ]
    assert usage(results) == {
        "context_tokens": 100,
        "cached_tokens": cached,
        "candidate_tokens": sum(candidates),
        "extend_tokens": 100 - cached + sum(candidates),
    }


def test_context_computed_twice_is_charged_twice() -> None:
    counts = usage([result(0, 10), result(0, 10)])
    assert counts["extend_tokens"] == 220
    assert counts["cached_tokens"] == 0


def test_queue_ends_when_the_first_chunk_starts() -> None:
    results = [result(0, 1, queue_ms=5, score_ms=10), result(0, 1, queue_ms=16, score_ms=4)]
    times = stage_times(results, tokenize_ms=2, total_ms=30)
    assert (times.queue, times.score, times.tokenize, times.total) == (5, 15, 2, 30)
