"""Payloads come back as they went, and damaged ones are refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.engines.base import JobScores, ScoreJob
from models.errors import NonFiniteLogitError
from service.jobs import (
    JobFailure,
    JobResult,
    PayloadError,
    PooledJob,
    decode_job,
    decode_result,
    encode_failure,
    encode_job,
    encode_result,
)

TOKENS = st.lists(st.integers(0, 2**31 - 1), max_size=20).map(tuple)
HASHES = st.lists(st.binary(min_size=16, max_size=16).map(bytes.hex), max_size=4).map(tuple)
JOBS = st.builds(ScoreJob, TOKENS, HASHES, st.lists(TOKENS, max_size=4).map(tuple))
COUNTS = st.integers(0, 2**32 - 1)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
LOGITS = st.lists(FINITE, max_size=5).map(tuple)
SCORES = st.builds(JobScores, LOGITS, COUNTS, COUNTS, COUNTS, heads=st.integers(1, 3))
RESULTS = st.builds(JobResult, SCORES, FINITE, FINITE, st.binary(max_size=20), COUNTS)


@given(JOBS, st.integers(0, 2**32 - 1))
def test_job_round_trip(job: ScoreJob, deadline_ms: int) -> None:
    assert decode_job(encode_job(job, deadline_ms)) == PooledJob(job, deadline_ms)


@given(RESULTS)
def test_result_round_trip(result: JobResult) -> None:
    assert decode_result(encode_result(result)) == result


@given(RESULTS)
def test_cut_or_lengthened_result_is_refused(result: JobResult) -> None:
    payload = encode_result(result)
    for damaged in (payload[:-1], payload + b"\0"):
        with pytest.raises(PayloadError):
            decode_result(damaged)


def test_a_row_holds_one_logit_per_head() -> None:
    scores = JobScores((0.1, 0.2, 0.3, 0.4, 0.5, 0.6), 1, 0, 2, heads=3)
    assert JobResult(scores, 0.0, 0.0).rows == [(0.1, 0.2, 0.3), (0.4, 0.5, 0.6)]


@given(st.text(), st.text())
def test_failure_round_trip(code: str, message: str) -> None:
    failure = JobFailure(code, message)
    assert decode_result(encode_failure(failure)) == failure


@given(JOBS, st.data())
def test_cut_or_lengthened_job_is_refused(job: ScoreJob, data: st.DataObject) -> None:
    payload = encode_job(job, 1)
    cut = data.draw(st.integers(0, len(payload) - 1))
    for damaged in (payload[:cut], payload + b"\0"):
        with pytest.raises(PayloadError):
            decode_job(damaged)


@given(st.binary())
def test_foreign_bytes_are_refused(payload: bytes) -> None:
    with pytest.raises(PayloadError):
        decode_job(payload)
    with pytest.raises(PayloadError):
        decode_result(payload)


@pytest.mark.parametrize("logit", [math.nan, math.inf, -math.inf])
def test_logit_that_is_not_finite_never_leaves(logit: float) -> None:
    with pytest.raises(NonFiniteLogitError, match="not finite"):
        encode_result(JobResult(JobScores((0.0, logit), 1, 0, 2), 0.0, 0.0))
