"""Payloads come back as they went, and damaged ones are refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.engines.base import EngineJob, JobScores, ReasonJob, ScoreJob, Written
from models.errors import NonFiniteLogitError
from service.jobs.jobs import (
    JobFailure,
    JobResult,
    PooledJob,
    decode_job,
    decode_result,
    encode_failure,
    encode_job,
    encode_result,
)
from service.jobs.payload_bytes import PayloadError
from tests.models.reasons.test_lattice import lattice_of

TOKENS = st.lists(st.integers(10, 2**31 - 1), max_size=20).map(tuple)
HASHES = st.lists(st.binary(min_size=16, max_size=16).map(bytes.hex), max_size=4).map(tuple)
LATTICES = st.sets(TOKENS, min_size=1, max_size=6).map(lattice_of)
JOBS = st.one_of(
    st.builds(ScoreJob, TOKENS, HASHES, st.lists(TOKENS, max_size=4).map(tuple)),
    st.builds(ReasonJob, TOKENS, HASHES, TOKENS, LATTICES),
)
COUNTS = st.integers(0, 2**32 - 1)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
LOGITS = st.lists(FINITE, max_size=5).map(tuple)
SCORES = st.builds(JobScores, LOGITS, COUNTS, COUNTS, COUNTS, heads=st.integers(1, 3))
WRITTEN = st.builds(Written, TOKENS, COUNTS, COUNTS, COUNTS)
RESULTS = st.builds(
    JobResult, st.one_of(SCORES, WRITTEN), FINITE, FINITE, st.binary(max_size=20), COUNTS
)


@given(JOBS, st.integers(0, 2**32 - 1))
def test_job_round_trip(job: EngineJob, deadline_ms: int) -> None:
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


def test_answers_that_are_no_lattice_are_refused() -> None:
    job = ReasonJob((1,), (), (2,), lattice_of({(11, 12)}))
    payload = bytearray(encode_job(job, 1))
    payload[-4:] = (0).to_bytes(4, "little")  # the last edge leads back to the start
    with pytest.raises(PayloadError, match="no lattice"):
        decode_job(bytes(payload))
