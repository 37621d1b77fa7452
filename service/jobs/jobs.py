"""Bytes of a job on its way to an engine and of its result on the way back.

Knows nothing of queues; the payloads are opaque to the gate. What each kind of job and answer adds
to what all have in common stands in `service.jobs.job_bodies`.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass

from models.engines.base import EngineAnswer, EngineJob, JobScores
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

_JOB = struct.Struct("<4sI")  # magic, deadline in ms
# magic, queue and score ms, overtakes, bytes of the report
_RESULT = struct.Struct("<4sddII")
_ERROR_MAGIC = b"FSE1"
PAYLOAD_FORMAT = b"".join(
    (SCORE_MAGIC, REASON_MAGIC, SCORES_MAGIC, WRITTEN_MAGIC, _ERROR_MAGIC)
).decode()


@dataclass(frozen=True, slots=True)
class PooledJob:
    """What an engine is to do: a job, of no use to anybody `deadline_ms` after it was queued."""

    job: EngineJob
    deadline_ms: int


@dataclass(frozen=True, slots=True)
class JobResult:
    """Answer to one job and where its time went, in milliseconds.

    report: what the engine says of itself beside it, see `engine_report`; mostly empty.
    overtaken: how often it was passed while it waited, see `service.engines.overtakes`.
    """

    answer: EngineAnswer
    queue_ms: float
    score_ms: float
    report: bytes = b""
    overtaken: int = 0

    @property
    def rows(self) -> list[tuple[float, ...]]:
        """Raw logits candidate by candidate, one per head, of a job that was to be scored."""
        assert isinstance(self.answer, JobScores), "an engine answers what it was asked"
        logits, heads = self.answer.raw_logits, self.answer.heads
        return [logits[start : start + heads] for start in range(0, len(logits), heads)]


@dataclass(frozen=True, slots=True)
class JobFailure:
    """Why the engine did not do one job."""

    code: str
    message: str


def encode_job(job: EngineJob, deadline_ms: int) -> bytes:
    """Inverse of `decode_job`."""
    magic, body = write_job(job)
    return _JOB.pack(magic, deadline_ms) + body


def decode_job(payload: bytes) -> PooledJob:
    """Raises PayloadError when the bytes are not exactly one job."""
    reader = Reader(payload)
    magic, deadline_ms = reader.header(_JOB)
    job = read_job(magic, reader)
    reader.finish()
    return PooledJob(job, deadline_ms)


def encode_result(result: JobResult) -> bytes:
    """Inverse of `decode_result`. Raises NonFiniteLogitError for a NaN or infinite logit."""
    magic, body = write_answer(result.answer)
    times = result.queue_ms, result.score_ms
    header = _RESULT.pack(magic, *times, result.overtaken, len(result.report))
    return header + result.report + body


def encode_failure(failure: JobFailure) -> bytes:
    """Inverse of `decode_result` for a job that has no answer."""
    return _ERROR_MAGIC + json.dumps([failure.code, failure.message]).encode()


def decode_result(payload: bytes) -> JobResult | JobFailure:
    """Raises PayloadError when the bytes are neither an answer nor a failure."""
    if payload[:4] == _ERROR_MAGIC:
        return _failure(payload[4:])
    reader = Reader(payload)
    magic, queue_ms, score_ms, overtaken, report_bytes = reader.header(_RESULT)
    report = reader.take(report_bytes)
    answer = read_answer(magic, reader)
    reader.finish()
    return JobResult(answer, queue_ms, score_ms, report, overtaken)


def _failure(content: bytes) -> JobFailure:
    try:
        code, message = json.loads(content)
    except ValueError as error:
        raise PayloadError(
            f"a failure cannot be read ({error}); drain the pool before an upgrade"
        ) from error
    return JobFailure(code, message)
