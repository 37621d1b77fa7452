"""Claimed jobs on their way to an engine and back: pack, then settle. Knows nothing of Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat

from models.engines.base import CacheEvents, EngineAnswer, EngineJob, Written
from models.errors import FairslateError
from service.base.errors import error_code
from service.gate.job import Claimed, Outcome, Settlement
from service.jobs.jobs import (
    JobFailure,
    JobResult,
    decode_job,
    encode_failure,
    encode_result,
)


@dataclass(frozen=True, slots=True)
class Batch:
    """Claimed jobs beside what they decode to, and the settlements of those that do not decode.

    claimed_at, and `due` of each job, after which it is worth no scoring: local seconds.
    overtaken: by job, see `service.engines.overtakes`.
    """

    claimed: tuple[Claimed, ...]
    jobs: tuple[EngineJob, ...]
    due: tuple[float, ...]
    refused: tuple[Settlement, ...]
    claimed_at: float
    overtaken: Mapping[str, int] = field(default_factory=dict)

    @property
    def cost(self) -> int:
        """What the gate charged for it: tokens to compute."""
        return sum(job.charged for job in self.claimed)


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of a batch; of its jobs those whose time was up when its turn came have None.

    answers: or the error that the whole batch failed with. events, label_mass: see `Engine`.
    """

    batch: Batch
    answers: Sequence[EngineAnswer | None] | Exception
    began: float
    ended: float
    events: CacheEvents
    label_mass: tuple[float, ...]

    @property
    def seconds(self) -> float:
        return self.ended - self.began


def pack(
    claimed: Sequence[Claimed],
    check: Callable[[EngineJob], None],
    now: float,
    overtaken: Mapping[str, int],
) -> Batch:
    """Decodes payloads; one that does not decode or pass is refused alone and spoils no other job.

    check: raises FairslateError for a job that the engine cannot score. now: when it was claimed.
    """
    kept: list[Claimed] = []
    jobs: list[EngineJob] = []
    due: list[float] = []
    refused: list[Settlement] = []
    for job in claimed:
        try:
            pooled = decode_job(job.payload)
            check(pooled.job)
            kept.append(job)
            jobs.append(pooled.job)
            due.append(now + (pooled.deadline_ms - job.queue_ms) / 1000)
        except FairslateError as error:
            refused.append(_failed(job, error))
    return Batch(tuple(kept), tuple(jobs), tuple(due), tuple(refused), now, overtaken)


def settlements(scored: Scored, report: bytes) -> Iterator[Settlement]:
    """One for each job of the batch; `report` goes with the first one that has scores."""
    batch = scored.batch
    yield from batch.refused
    if isinstance(scored.answers, Exception):
        for job in batch.claimed:
            yield _failed(job, scored.answers)
        return
    reports = chain([report], repeat(b""))
    for job, answer in zip(batch.claimed, scored.answers, strict=True):
        if answer is None:
            yield Settlement(job.job_id, job.epoch, 0, b"", Outcome.DEADLINE)
        else:
            queue_ms = job.queue_ms + (scored.began - batch.claimed_at) * 1000
            result = JobResult(
                answer,
                queue_ms,
                scored.seconds * 1000,
                next(reports),
                batch.overtaken.get(job.job_id, 0),
            )
            yield _settlement(job, result)


def _settlement(job: Claimed, result: JobResult) -> Settlement:
    try:
        payload = encode_result(result)
    except FairslateError as error:
        return _failed(job, error)
    answer = result.answer
    output_tokens = answer.output_tokens if isinstance(answer, Written) else 0
    return Settlement(
        job.job_id, job.epoch, answer.extend_tokens, payload, output_tokens=output_tokens
    )


def _failed(job: Claimed, error: Exception) -> Settlement:
    """The tenant pays nothing for a job that was not scored."""
    own = isinstance(error, FairslateError)
    message = str(error) if own else f"{type(error).__name__}: {error}"
    failure = encode_failure(JobFailure(error_code(error), message))
    return Settlement(job.job_id, job.epoch, 0, failure, Outcome.FAILED)
