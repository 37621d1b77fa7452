"""Bytes of a job on its way to an engine and of its result on the way back.

Knows nothing of queues; the payloads are opaque to the gate. Little-endian, no pickle.
"""

from __future__ import annotations

import json
import math
import struct
import sys
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from models.engines.base import JobScores, ScoreJob
from models.errors import FairslateError, NonFiniteLogitError

assert sys.byteorder == "little", "array() writes native integers; the format is little-endian"

_JOB = struct.Struct("<4sIIII")  # magic, deadline in ms, context tokens, blocks, candidates
# magic, three token counts, logits, heads, queue and score ms, overtakes, bytes of the report
_SCORES = struct.Struct("<4sIIIIIddII")
_JOB_MAGIC, _SCORES_MAGIC, _ERROR_MAGIC = b"FSJ2", b"FSR3", b"FSE1"
_HASH_BYTES = 16
PAYLOAD_FORMAT = (_JOB_MAGIC + _SCORES_MAGIC + _ERROR_MAGIC).decode()


class PayloadError(FairslateError):
    """Bytes that are no payload of this version; two versions of fairslate share one pool."""

    code = "payload_invalid"


@dataclass(frozen=True, slots=True)
class PooledJob:
    """What an engine is to do: a job, of no use to anybody `deadline_ms` after it was queued."""

    job: ScoreJob
    deadline_ms: int


@dataclass(frozen=True, slots=True)
class JobResult:
    """Scores of one job and where its time went, in milliseconds.

    report: what the engine says of itself beside them, see `service.engine_report`; mostly empty.
    overtaken: how often it was passed while it waited, see `service.overtakes`.
    """

    scores: JobScores
    queue_ms: float
    score_ms: float
    report: bytes = b""
    overtaken: int = 0

    @property
    def rows(self) -> list[tuple[float, ...]]:
        """Raw logits candidate by candidate, one per head."""
        logits, heads = self.scores.raw_logits, self.scores.heads
        return [logits[start : start + heads] for start in range(0, len(logits), heads)]


@dataclass(frozen=True, slots=True)
class JobFailure:
    """Why the engine did not score one job."""

    code: str
    message: str


def encode_job(job: ScoreJob, deadline_ms: int) -> bytes:
    """Inverse of `decode_job`."""
    header = _JOB.pack(
        _JOB_MAGIC,
        deadline_ms,
        len(job.context_ids),
        len(job.block_hashes),
        len(job.candidates),
    )
    return b"".join(
        (
            header,
            _integers(job.context_ids),
            bytes.fromhex("".join(job.block_hashes)),
            _integers(len(candidate) for candidate in job.candidates),
            *(_integers(candidate) for candidate in job.candidates),
        )
    )


def decode_job(payload: bytes) -> PooledJob:
    """Raises PayloadError when the bytes are not exactly one job."""
    reader = _Reader(payload)
    magic, deadline_ms, context_tokens, blocks, candidates = reader.header(_JOB)
    if magic != _JOB_MAGIC:
        raise PayloadError(f"payload starts with {magic!r}; drain the pool before an upgrade")
    context_ids = reader.integers(context_tokens)
    hashes = tuple(reader.take(_HASH_BYTES).hex() for _ in range(blocks))
    lengths = reader.integers(candidates)
    job = ScoreJob(context_ids, hashes, tuple(reader.integers(length) for length in lengths))
    reader.finish()
    return PooledJob(job, deadline_ms)


def encode_result(result: JobResult) -> bytes:
    """Inverse of `decode_result`. Raises NonFiniteLogitError for a NaN or infinite logit."""
    scores = result.scores
    if not all(map(math.isfinite, scores.raw_logits)):
        raise NonFiniteLogitError("the model gave a logit that is not finite; check its weights")
    header = _SCORES.pack(
        _SCORES_MAGIC,
        scores.context_tokens,
        scores.cached_tokens,
        scores.candidate_tokens,
        len(scores.raw_logits),
        scores.heads,
        result.queue_ms,
        result.score_ms,
        result.overtaken,
        len(result.report),
    )
    return header + array("d", scores.raw_logits).tobytes() + result.report


def encode_failure(failure: JobFailure) -> bytes:
    """Inverse of `decode_result` for a job that has no scores."""
    return _ERROR_MAGIC + json.dumps([failure.code, failure.message]).encode()


def decode_result(payload: bytes) -> JobResult | JobFailure:
    """Raises PayloadError when the bytes are neither scores nor a failure."""
    if payload[:4] == _ERROR_MAGIC:
        return _failure(payload[4:])
    reader = _Reader(payload)
    magic, context, cached, candidate, count, heads, *rest = reader.header(_SCORES)
    queue_ms, score_ms, overtaken, report_bytes = rest
    if magic != _SCORES_MAGIC or heads < 1:
        raise PayloadError(f"result starts with {magic!r}; drain the pool before an upgrade")
    logits = tuple(array("d", reader.take(8 * count)))
    report = reader.take(report_bytes)
    reader.finish()
    scores = JobScores(logits, context, cached, candidate, heads=heads)
    return JobResult(scores, queue_ms, score_ms, report, overtaken)


def _failure(content: bytes) -> JobFailure:
    try:
        code, message = json.loads(content)
    except ValueError as error:
        raise PayloadError(f"a failure that cannot be read ({error})") from error
    return JobFailure(code, message)


def _integers(values: Iterable[int]) -> bytes:
    return array("i", values).tobytes()


class _Reader:
    """Walks a payload front to back and refuses to run past its end."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._position = 0

    def take(self, size: int) -> bytes:
        piece = self._payload[self._position : self._position + size]
        if size < 0 or len(piece) < size:
            raise PayloadError(f"payload of {len(self._payload)} bytes ends too early")
        self._position += size
        return piece

    def header(self, layout: struct.Struct) -> tuple[Any, ...]:
        return layout.unpack(self.take(layout.size))

    def integers(self, count: int) -> tuple[int, ...]:
        return tuple(array("i", self.take(4 * count)))

    def finish(self) -> None:
        if self._position != len(self._payload):
            raise PayloadError(f"payload has {len(self._payload) - self._position} bytes too many")
