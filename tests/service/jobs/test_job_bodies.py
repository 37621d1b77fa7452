"""Each kind of job and answer comes back as it went, told apart by its magic alone.

What all jobs have around their bodies is tested in `test_jobs`.
"""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.engines.base import EngineAnswer, EngineJob, JobScores, ReasonJob, ScoreJob, Written
from models.errors import NonFiniteLogitError
from service.jobs.job_bodies import (
    REASON_MAGIC,
    SCORE_MAGIC,
    SCORES_MAGIC,
    WRITTEN_MAGIC,
    read_answer,
    read_job,
    write_answer,
    write_job,
)
from service.jobs.payload_bytes import PayloadError, Reader
from tests.models.reasons.test_lattice import lattice_of
from tests.service.jobs.test_jobs import JOBS, SCORES, WRITTEN

SCORE_JOB = ScoreJob((5, 6, 7), ("ab" * 16,), ((1, 2), (), (3,)))
REASON_JOB = ReasonJob((5, 6, 7), ("ab" * 16,), (8,), lattice_of({(11, 12), (13,)}))
SCORED = JobScores((0.5, -2.0), 3, 1, 4, heads=2)
WROTE = Written((11, 12), 3, 1, 4)


@given(JOBS)
def test_a_job_comes_back_and_nothing_is_left_of_its_bytes(job: EngineJob) -> None:
    magic, body = write_job(job)
    reader = Reader(body)
    assert read_job(magic, reader) == job
    reader.finish()


@given(st.one_of(SCORES, WRITTEN))
def test_an_answer_comes_back_and_nothing_is_left_of_its_bytes(answer: EngineAnswer) -> None:
    magic, body = write_answer(answer)
    reader = Reader(body)
    assert read_answer(magic, reader) == answer
    reader.finish()


def test_the_kinds_are_told_apart_by_their_magic() -> None:
    assert [write_job(job)[0] for job in (SCORE_JOB, REASON_JOB)] == [SCORE_MAGIC, REASON_MAGIC]
    assert [write_answer(one)[0] for one in (SCORED, WROTE)] == [SCORES_MAGIC, WRITTEN_MAGIC]
    assert len({SCORE_MAGIC, REASON_MAGIC, SCORES_MAGIC, WRITTEN_MAGIC}) == 4


@pytest.mark.parametrize("magic", [SCORES_MAGIC, b"FSJ2", b""])
def test_a_job_of_another_version_is_refused_with_what_to_do(magic: bytes) -> None:
    with pytest.raises(PayloadError, match="drain the pool before an upgrade"):
        read_job(magic, Reader(write_job(SCORE_JOB)[1]))


@pytest.mark.parametrize("magic", [SCORE_MAGIC, b"FSR3", b""])
def test_an_answer_of_another_version_is_refused_with_what_to_do(magic: bytes) -> None:
    with pytest.raises(PayloadError, match="drain the pool before an upgrade"):
        read_answer(magic, Reader(write_answer(SCORED)[1]))


def test_scores_without_heads_are_refused() -> None:
    body = bytearray(write_answer(SCORED)[1])
    struct.pack_into("<I", body, 4 * 4, 0)
    with pytest.raises(PayloadError, match="without heads"):
        read_answer(SCORES_MAGIC, Reader(bytes(body)))


@pytest.mark.parametrize("body", [write_job(SCORE_JOB)[1], write_job(REASON_JOB)[1]])
def test_counts_that_promise_more_than_there_is_are_refused(body: bytes) -> None:
    magic = SCORE_MAGIC if body == write_job(SCORE_JOB)[1] else REASON_MAGIC
    for field in range(3):
        promising = bytearray(body)
        struct.pack_into("<I", promising, 4 * field, 2**31)
        with pytest.raises(PayloadError, match="ends too early"):
            read_job(magic, Reader(bytes(promising)))


def test_edges_that_form_no_lattice_are_refused() -> None:
    body = write_job(REASON_JOB)[1]
    backwards = body[:-4] + struct.pack("<i", 0)
    with pytest.raises(PayloadError, match="no lattice"):
        read_job(REASON_MAGIC, Reader(backwards))


def test_a_logit_that_is_not_finite_is_not_written() -> None:
    with pytest.raises(NonFiniteLogitError, match="check its weights"):
        write_answer(JobScores((0.0, float("nan")), 1, 0, 2))
