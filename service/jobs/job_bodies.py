"""Bytes of what is asked of an engine and of what it answers, kind by kind: scores and reasons.

Knows nothing of deadlines, times and failures, which all jobs have alike (`service.jobs.jobs`).
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Callable
from itertools import chain

from models.engines.base import EngineAnswer, EngineJob, JobScores, ReasonJob, ScoreJob, Written
from models.errors import NonFiniteLogitError
from models.reasons.lattice import Lattice, LatticeError
from service.jobs.payload_bytes import PayloadError, Reader, hashes, integers

SCORE_MAGIC, REASON_MAGIC = b"FSJ3", b"FSQ1"
SCORES_MAGIC, WRITTEN_MAGIC = b"FSR4", b"FSW1"
_SCORE = struct.Struct("<III")  # context tokens, blocks, candidates
_REASON = struct.Struct("<IIII")  # context tokens, blocks, candidate tokens, nodes
_SCORES = struct.Struct("<IIIII")  # three token counts, logits, heads
_WRITTEN = struct.Struct("<IIII")  # three token counts, tokens written


def write_job(job: EngineJob) -> tuple[bytes, bytes]:
    """Its magic and its body."""
    if isinstance(job, ScoreJob):
        return SCORE_MAGIC, _score_job(job)
    return REASON_MAGIC, _reason_job(job)


def read_job(magic: bytes, reader: Reader) -> EngineJob:
    """Raises PayloadError for an unknown magic, and for a body that is none of its kind."""
    kinds: dict[bytes, Callable[[Reader], EngineJob]] = {
        SCORE_MAGIC: _read_score_job,
        REASON_MAGIC: _read_reason_job,
    }
    if magic not in kinds:
        raise PayloadError(f"payload starts with {magic!r}; drain the pool before an upgrade")
    return kinds[magic](reader)


def write_answer(answer: EngineAnswer) -> tuple[bytes, bytes]:
    """Its magic and its body. Raises NonFiniteLogitError for a NaN or infinite logit."""
    if isinstance(answer, JobScores):
        return SCORES_MAGIC, _scores(answer)
    return WRITTEN_MAGIC, _written(answer)


def read_answer(magic: bytes, reader: Reader) -> EngineAnswer:
    """Raises PayloadError as `read_job` does."""
    kinds: dict[bytes, Callable[[Reader], EngineAnswer]] = {
        SCORES_MAGIC: _read_scores,
        WRITTEN_MAGIC: _read_written,
    }
    if magic not in kinds:
        raise PayloadError(f"result starts with {magic!r}; drain the pool before an upgrade")
    return kinds[magic](reader)


def _score_job(job: ScoreJob) -> bytes:
    header = _SCORE.pack(len(job.context_ids), len(job.block_hashes), len(job.candidates))
    return b"".join(
        (
            header,
            integers(job.context_ids),
            hashes(job.block_hashes),
            integers(map(len, job.candidates)),
            *map(integers, job.candidates),
        )
    )


def _read_score_job(reader: Reader) -> ScoreJob:
    context_tokens, blocks, candidates = reader.header(_SCORE)
    context, chain_ = reader.integers(context_tokens), reader.hashes(blocks)
    lengths = reader.integers(candidates)
    return ScoreJob(context, chain_, tuple(map(reader.integers, lengths)))


def _reason_job(job: ReasonJob) -> bytes:
    nodes = job.answers.nodes
    counts = len(job.context_ids), len(job.block_hashes), len(job.candidate), len(nodes)
    edges = chain.from_iterable(chain.from_iterable(nodes))
    return b"".join(
        (
            _REASON.pack(*counts),
            integers(job.context_ids),
            hashes(job.block_hashes),
            integers(job.candidate),
            integers(map(len, nodes)),
            integers(edges),
        )
    )


def _read_reason_job(reader: Reader) -> ReasonJob:
    context_tokens, blocks, candidate_tokens, nodes = reader.header(_REASON)
    context, chain_ = reader.integers(context_tokens), reader.hashes(blocks)
    candidate, edges = reader.integers(candidate_tokens), reader.integers(nodes)
    try:
        answers = Lattice(tuple(_read_edges(reader, count) for count in edges))
    except LatticeError as error:
        raise PayloadError(f"the answers of a job are no lattice: {error}") from error
    return ReasonJob(context, chain_, candidate, answers)


def _read_edges(reader: Reader, count: int) -> tuple[tuple[int, int], ...]:
    flat = reader.integers(2 * count)
    return tuple(zip(flat[::2], flat[1::2], strict=True))


def _scores(scores: JobScores) -> bytes:
    if not all(map(math.isfinite, scores.raw_logits)):
        raise NonFiniteLogitError("the model gave a logit that is not finite; check its weights")
    counts = scores.context_tokens, scores.cached_tokens, scores.candidate_tokens
    header = _SCORES.pack(*counts, len(scores.raw_logits), scores.heads)
    return header + array("d", scores.raw_logits).tobytes()


def _read_scores(reader: Reader) -> JobScores:
    context, cached, candidate, logits, heads = reader.header(_SCORES)
    if heads < 1:
        raise PayloadError("scores of a model without heads; drain the pool before an upgrade")
    values = tuple(array("d", reader.take(8 * logits)))
    return JobScores(values, context, cached, candidate, heads=heads)


def _written(written: Written) -> bytes:
    counts = written.context_tokens, written.cached_tokens, written.candidate_tokens
    return _WRITTEN.pack(*counts, len(written.tokens)) + integers(written.tokens)


def _read_written(reader: Reader) -> Written:
    context, cached, candidate, tokens = reader.header(_WRITTEN)
    return Written(reader.integers(tokens), context, cached, candidate)
