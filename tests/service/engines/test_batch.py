"""Every claimed job is settled once, as what became of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from models.engines.base import CacheEvents, EngineAnswer, JobScores, ScoreJob, Written
from service.engines.batch import Batch, Scored, pack, settlements
from service.gate.job import Claimed, Outcome, Settlement
from service.jobs.jobs import JobFailure, JobResult, decode_result, encode_job

SCORES = JobScores((0.5,), 10, 4, 3)


def claimed(name: str, queue_ms: int = 40, deadline_ms: int = 100) -> Claimed:
    payload = encode_job(ScoreJob((1,), ("0" * 32,), ((2,),)), deadline_ms)
    return Claimed(name, 7, payload if name != "damaged" else b"?", "here", 9, 0, queue_ms)


def packed(*names: str) -> Batch:
    return pack([claimed(name) for name in names], lambda _: None, 5.0, {"b": 3})


def settled(batch: Batch, answers: Sequence[EngineAnswer | None] | Exception) -> list[Settlement]:
    scored = Scored(batch, answers, 5.002, 5.012, CacheEvents(), ())
    return list(settlements(scored, b"report"))


def test_a_jobs_time_is_counted_from_when_it_was_queued() -> None:
    batch = pack([claimed("a", queue_ms=40, deadline_ms=100)], lambda _: None, 5.0, {})
    (due,) = batch.due
    assert due == pytest.approx(5.06)
    assert batch.cost == 9


def test_a_result_counts_the_wait_in_line_and_the_first_one_carries_the_report() -> None:
    first, second = settled(packed("a", "b"), [SCORES, SCORES])
    assert (first.job_id, first.epoch, first.extend_tokens) == ("a", 7, SCORES.extend_tokens)
    result, other = decode_result(first.result), decode_result(second.result)
    assert isinstance(result, JobResult)
    assert isinstance(other, JobResult)
    assert result.queue_ms == pytest.approx(42)
    assert result.score_ms == pytest.approx(10)
    assert (result.report, other.report) == (b"report", b"")
    assert (result.overtaken, other.overtaken) == (0, 3)


def test_a_job_that_was_not_scored_in_time_missed_its_deadline_and_costs_nothing() -> None:
    late, scored = settled(packed("late", "a"), [None, SCORES])
    assert (late.outcome, late.extend_tokens, late.result) == (Outcome.DEADLINE, 0, b"")
    assert scored.outcome is Outcome.SCORED
    result = decode_result(scored.result)
    assert isinstance(result, JobResult)
    assert result.report == b"report"


def test_a_failed_batch_fails_each_of_its_jobs_with_the_cause() -> None:
    rows = settled(packed("a", "damaged", "b"), RuntimeError("out of memory"))
    assert sorted(row.job_id for row in rows) == ["a", "b", "damaged"]
    for row in rows:
        failure = decode_result(row.result)
        assert isinstance(failure, JobFailure)
        assert (row.outcome, row.extend_tokens) == (Outcome.FAILED, 0)
        assert row.job_id == "damaged" or "out of memory" in failure.message


def test_what_was_written_is_settled_beside_what_was_read() -> None:
    (row,) = settled(packed("a"), [Written((11, 12, 13), 10, 4, 3)])
    assert (row.extend_tokens, row.output_tokens) == (9, 3)
    assert settled(packed("a"), [SCORES])[0].output_tokens == 0
