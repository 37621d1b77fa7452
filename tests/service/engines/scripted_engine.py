"""An engine that does as it is told, and jobs for it. For tests of the loop around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from models.engines.base import CacheEvents, JobScores, ScoreJob
from models.errors import CandidateTooLongError
from service.gate.gate import AsyncGate
from service.gate.job import Job, Level
from service.gate.settings import GateSettings
from service.jobs.jobs import encode_job

Score = Callable[[ScoreJob], float]
LONGEST = 4


class ScriptedEngine:
    """Gives each candidate the logit that a function says; remembers the batches it saw."""

    block_size = 16
    description: ClassVar = {"dtype": "scripted"}

    def __init__(self, logit: Score) -> None:
        self._logit = logit
        self.batches: list[int] = []

    def score(self, jobs: Sequence[ScoreJob]) -> list[JobScores]:
        self.batches.append(len(jobs))
        return [
            JobScores((self._logit(job),), len(job.context_ids), 0, len(job.candidates[0]))
            for job in jobs
        ]

    def check(self, job: ScoreJob) -> None:
        if (length := len(job.candidates[0])) > LONGEST:
            raise CandidateTooLongError(f"{length} tokens exceed {LONGEST}")

    def drain_cache_events(self) -> CacheEvents:
        return CacheEvents()

    def drain_label_mass(self) -> tuple[float, ...]:
        return (0.5,)


def job(name: str, reply_to: str, payload: bytes | None = None) -> Job:
    number = int(name)
    score_job = ScoreJob((1, 2, 3), ("0" * 32,), ((number,),))
    return Job(
        job_id=f"{reply_to}-{name}",
        path=(Level("ada"),),
        tenant_level=0,
        context_hashes=score_job.block_hashes,
        block_size=16,
        context_tokens=3,
        candidate_tokens=1,
        deadline_ms=10_000,
        reply_to=reply_to,
        payload=encode_job(score_job, 10_000) if payload is None else payload,
    )


def only_candidate(score_job: ScoreJob) -> float:
    return float(score_job.candidates[0][0])


async def submit(url: str, pool: str, *jobs: Job) -> None:
    gate = AsyncGate(url, pool, GateSettings())
    for one in jobs:
        await gate.submit(one)
    await gate.close()
