"""A reception on a real Redis, and an engine's side of its pool. Knows nothing of what is asked."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from models.engines.base import EngineAnswer, EngineJob
from service.base.config import Settings
from service.dispatch.dispatch import Dispatcher
from service.dispatch.fallback import Fallback
from service.gate.gate import AsyncGate, WorkerGate
from service.gate.job import Level, Settlement
from service.jobs.jobs import JobFailure, JobResult, decode_job, encode_failure, encode_result
from service.metrics.engine_board import EngineBoard
from service.metrics.metrics import Metrics
from service.tenants.tenants import Tenant, Tenants
from service.walk.insight import Insight
from service.walk.reception import Call, Reception

CLASSES = (Level("interactive", 8), Level("batch", 1))
TENANTS = Tenants(
    tuple(
        (hashlib.sha256(tenant.name.encode()).hexdigest(), tenant)
        for tenant in (Tenant("ada"), Tenant("bob"), Tenant("cleo", classes=CLASSES, users=True))
    )
)
Reply = Callable[[EngineJob], EngineAnswer | JobFailure]


@dataclass(frozen=True, slots=True)
class Desk:
    """What stands around the reception; tenants' keys are their names."""

    reception: Reception
    insight: Insight
    gateway: Fallback
    worker: WorkerGate
    registry: CollectorRegistry

    async def serve(self, jobs: int, reply: Reply, report: bytes = b"") -> None:
        """Answers so many jobs one by one, as an engine would."""
        await asyncio.to_thread(self._serve, jobs, reply, report)

    def requests(self, tenant: str, code: str) -> float:
        """How many of the tenant ended so."""
        labels = {"tenant": tenant, "code": code}
        return self.registry.get_sample_value("fairslate_requests_total", labels) or 0.0

    def _serve(self, jobs: int, reply: Reply, report: bytes) -> None:
        while jobs:
            self.worker.wait_for_work(1.0)
            for job in self.worker.claim(10_000, 1).jobs:
                answer = reply(decode_job(job.payload).job)
                if isinstance(answer, JobFailure):
                    settlement = Settlement(job.job_id, job.epoch, 0, encode_failure(answer))
                else:
                    result = encode_result(JobResult(answer, 2.0, 1.0, report))
                    settlement = Settlement(job.job_id, job.epoch, answer.extend_tokens, result)
                self.worker.settle([settlement])
                jobs -= 1


@contextlib.asynccontextmanager
async def open_desk(url: str, pool: str, settings: Settings) -> AsyncIterator[Desk]:
    """An engine has joined the pool, and answers what `serve` is called for."""
    registry = CollectorRegistry()
    worker = WorkerGate(url, pool, settings.gate, "worker")
    worker.join()
    gate = AsyncGate(url, pool, settings.gate)
    dispatcher = Dispatcher(gate)
    gateway = Fallback(dispatcher)
    insight = Insight(settings, TENANTS, gateway)
    metrics, board = Metrics(TENANTS.all, 1, registry), EngineBoard(None, registry)
    reception = Reception(settings, TENANTS, gateway, insight, metrics, board)
    reading = asyncio.create_task(dispatcher.read_replies())
    assert await reception.ready()
    async with asyncio.timeout(30.0):
        yield Desk(reception, insight, gateway, worker, registry)
    dispatcher.close()
    await reading
    await dispatcher.finish()
    await gate.close()
    worker.close()


def call(tenant: str, body: bytes, request_id: str = "mine") -> Call:
    """One that arrives now."""

    async def read() -> bytes:
        return body

    return Call(request_id, f"Bearer {tenant}", read)
