"""The engine's loop: claim, pack, score, settle. Knows nothing of HTTP, tenants or prompts.

A batch is settled in the call that claims the next one, so scoring waits for one round trip.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any, TypeVar

from models.engines.base import Engine, ScoreJob
from models.errors import FairslateError
from service.engine_report import EngineReport, encode_report
from service.errors import error_code
from service.gate.errors import GateUnavailableError
from service.gate.gate import WorkerGate
from service.gate.job import Claimed, Outcome, Settlement
from service.jobs import (
    JobFailure,
    JobResult,
    decode_job,
    encode_failure,
    encode_result,
)

logger = logging.getLogger("fairslate.engine")

KEEPER_SECONDS = 1.0
RETRY_SECONDS = 0.1
FAREWELLS = 20  # in two seconds; then the leases run out by themselves

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Batch:
    """Claimed jobs beside what they decode to, and the settlements of those that do not decode."""

    claimed: tuple[Claimed, ...]
    jobs: tuple[ScoreJob, ...]
    refused: tuple[Settlement, ...]


class EngineLoop:
    """Serves one pool with one engine: `run` in one thread, `keep` in a second one beside it."""

    def __init__(
        self, engine: Engine, gate: WorkerGate, token_budget: int, max_batch_jobs: int
    ) -> None:
        self._engine = engine
        self._gate = gate
        self._token_budget = token_budget
        self._max_batch_jobs = max_batch_jobs
        self._stopping = threading.Event()
        self._held: tuple[Claimed, ...] = ()

    def run(self) -> None:
        """Joins the pool and serves until `stop`; an absent Redis is waited for."""
        self._patiently(self._gate.join)
        settlements: list[Settlement] = []
        while not self._stopping.is_set():
            claimed = self._patiently(self._exchange, settlements)
            if claimed is None:  # told to stop before Redis took the settlements
                break
            settlements = self._serve(claimed) if claimed else []
            if not claimed:
                self._patiently(self._gate.wait_for_work)
        self._leave(settlements)

    def keep(self) -> None:
        """Renews the leases of the batch in hand and reaps those of dead engines, until `stop`."""
        while not self._stopping.wait(KEEPER_SECONDS):
            try:
                self._gate.renew(self._held)
                self._gate.reap()
            except GateUnavailableError as error:
                logger.warning("leases are not renewed: %s", error)

    def stop(self) -> None:
        """Lets both threads end after the batch in hand; no new job is routed here meanwhile."""
        self._stopping.set()
        with contextlib.suppress(GateUnavailableError):
            self._gate.drain()

    def _leave(self, settlements: Sequence[Settlement]) -> None:
        """An embedded Redis that was told to stop as well comes back for whoever still runs."""
        for _ in range(FAREWELLS):
            with contextlib.suppress(GateUnavailableError):
                self._gate.settle(settlements)
                self._gate.leave()
                return
            time.sleep(RETRY_SECONDS)

    def _serve(self, claimed: Sequence[Claimed]) -> list[Settlement]:
        batch = pack(claimed, self._engine.check)
        return [*self._score(batch), *batch.refused]

    def _exchange(self, settlements: Sequence[Settlement]) -> tuple[Claimed, ...]:
        events = self._engine.drain_cache_events()
        claim = self._gate.exchange(
            settlements,
            self._token_budget,
            self._max_batch_jobs,
            events.inserted,
            events.evicted,
        )
        self._held = claim.jobs
        return claim.jobs

    def _score(self, batch: Batch) -> list[Settlement]:
        if not batch.jobs:
            return []
        started = time.perf_counter()
        try:
            scores = self._engine.score(batch.jobs)
        except Exception as error:  # whatever it is, every job of the batch must hear of it
            logger.exception("a batch of %d jobs failed", len(batch.jobs))
            return [_failed(job, error) for job in batch.claimed]
        score_ms = (time.perf_counter() - started) * 1000
        reports = chain([self._report()], repeat(b""))
        return [
            _scored(job, JobResult(result, job.queue_ms, score_ms, report))
            for job, result, report in zip(batch.claimed, scores, reports, strict=False)
        ]

    def _report(self) -> bytes:
        engine = self._engine
        return encode_report(
            EngineReport(self._gate.worker, engine.description, engine.drain_label_mass())
        )

    def _patiently(self, call: Callable[..., Answer], *arguments: Any) -> Answer | None:
        """Repeats the call while Redis is away; None when told to stop meanwhile."""
        while True:
            try:
                return call(*arguments)
            except GateUnavailableError as error:
                logger.warning("waiting for Redis: %s", error)
            if self._stopping.wait(RETRY_SECONDS):
                return None


def pack(claimed: Sequence[Claimed], check: Callable[[ScoreJob], None]) -> Batch:
    """Decodes payloads; one that does not decode or pass is refused alone and spoils no other job.

    check: raises FairslateError for a job that the engine cannot score.
    """
    kept: list[Claimed] = []
    jobs: list[ScoreJob] = []
    refused: list[Settlement] = []
    for job in claimed:
        try:
            decoded = decode_job(job.payload)
            check(decoded)
            jobs.append(decoded)
            kept.append(job)
        except FairslateError as error:
            refused.append(_failed(job, error))
    return Batch(tuple(kept), tuple(jobs), tuple(refused))


def _scored(job: Claimed, result: JobResult) -> Settlement:
    try:
        payload = encode_result(result)
    except FairslateError as error:
        return _failed(job, error)
    return Settlement(job.job_id, job.epoch, result.scores.extend_tokens, payload)


def _failed(job: Claimed, error: Exception) -> Settlement:
    """The tenant pays nothing for a job that was not scored."""
    own = isinstance(error, FairslateError)
    message = str(error) if own else f"{type(error).__name__}: {error}"
    failure = encode_failure(JobFailure(error_code(error), message))
    return Settlement(job.job_id, job.epoch, 0, failure, Outcome.FAILED)
