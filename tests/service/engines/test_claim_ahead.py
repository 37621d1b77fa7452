"""While one batch is scored the next one is claimed, held and never lost. Real Redis."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

from models.engines.base import ScoreJob
from service.engines.engine import EngineLoop
from service.engines.joint_engine import JointEngine
from service.gate.gate import WorkerGate
from service.gate.job import Claimed
from service.gate.settings import GateSettings
from tests.e2e.server import wait_until
from tests.service.engines.scripted_engine import ScriptedEngine, job, only_candidate, submit


def two_batches(observer: WorkerGate) -> Callable[[], bool]:
    """Whether two batches of eight are leased; never more."""

    def leased() -> bool:
        jobs = observer.stats().leased_jobs
        assert jobs <= 16
        return jobs == 16

    return leased


def pending(observer: WorkerGate) -> int:
    """Jobs that are not answered."""
    stats = observer.stats()
    return stats.queued_jobs + stats.leased_jobs


def test_the_next_batch_is_claimed_while_one_is_scored_and_both_are_renewed(
    service_redis_url: str, pool: str
) -> None:
    renewed: list[int] = []

    class Renewing(WorkerGate):
        def renew(self, held: Sequence[Claimed]) -> list[bool]:
            renewed.append(len(held))
            return super().renew(held)

    def look(score_job: ScoreJob) -> float:
        if len(engine.batches) == 1:
            wait_until(two_batches(observer), 5.0, "the next batch")
            wait_until(lambda: 16 in renewed, 5.0, "both batches' renewal")
        return only_candidate(score_job)

    observer = WorkerGate(service_redis_url, pool, GateSettings(), "observer")
    gate = Renewing(service_redis_url, pool, GateSettings(), "worker")
    engine = ScriptedEngine(look)
    loop = EngineLoop(JointEngine(engine), gate, token_budget=4096, max_batch_jobs=8)
    gate.join()
    asyncio.run(submit(service_redis_url, pool, *(job(str(n), "here") for n in range(20))))
    threads = [threading.Thread(target=each, daemon=True) for each in (loop.run, loop.keep)]
    for thread in threads:
        thread.start()
    wait_until(lambda: not pending(observer), 15.0, "all jobs")
    loop.stop()
    for thread in threads:
        thread.join(10.0)
    assert engine.batches == [8, 8, 4]
    assert max(renewed) == 16, "an assertion of the engine's own fails but its batch"


def test_stopping_scores_the_batch_that_was_claimed_ahead(
    service_redis_url: str, pool: str
) -> None:
    def stop(score_job: ScoreJob) -> float:
        if len(engine.batches) == 1:
            try:
                wait_until(two_batches(observer), 5.0, "the next batch")
            finally:
                loop.stop()
        return only_candidate(score_job)

    observer = WorkerGate(service_redis_url, pool, GateSettings(), "observer")
    worker = WorkerGate(service_redis_url, pool, GateSettings(), "worker")
    engine = ScriptedEngine(stop)
    loop = EngineLoop(JointEngine(engine), worker, token_budget=4096, max_batch_jobs=8)
    worker.join()
    asyncio.run(submit(service_redis_url, pool, *(job(str(n), "here") for n in range(20))))
    loop.run()
    stats = observer.stats()
    assert engine.batches == [8, 8]
    assert (stats.leased_jobs, stats.queued_jobs) == (0, 4)
