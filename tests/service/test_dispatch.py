"""No caller waits for ever: a reply that never comes ends with its deadline."""

from __future__ import annotations

import asyncio

import pytest

from service import dispatch
from service.dispatch import Dispatcher
from service.gate.errors import DeadlineExceededError, TenantThrottledError
from service.gate.gate import AsyncGate, WorkerGate
from service.gate.job import Job, Level
from service.gate.settings import GateSettings
from tests.e2e.server import wait_until


def job(name: str, deadline_ms: int) -> Job:
    return Job(name, (Level("ada"),), 0, (), 16, 0, 1, deadline_ms, "here", b"")


def test_a_reply_that_never_comes_ends_with_the_deadline(
    service_redis_url: str, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "GRACE_SECONDS", 0.01)
    worker = WorkerGate(service_redis_url, pool, GateSettings(), "worker")
    worker.join()

    async def ask() -> None:
        gate = AsyncGate(service_redis_url, pool, GateSettings())
        dispatcher = Dispatcher(gate)
        assert await dispatcher.ready()
        with pytest.raises(DeadlineExceededError, match="retry"):
            await asyncio.wait_for(dispatcher.score([job("a", 20), job("b", 10)]), 5.0)
        assert dispatcher.in_flight == 0
        await gate.close()

    asyncio.run(ask())


def test_a_refusal_says_when_to_come_back_and_leaves_no_chunk_queued(
    service_redis_url: str, pool: str
) -> None:
    settings = GateSettings(max_tenant_in_flight=1, retry_after_ms=700)
    worker = WorkerGate(service_redis_url, pool, settings, "worker")
    worker.join()

    def nothing_queued() -> bool:
        return worker.stats().queued_jobs == 0

    async def ask() -> None:
        gate = AsyncGate(service_redis_url, pool, settings)
        dispatcher = Dispatcher(gate)
        assert await dispatcher.ready()
        with pytest.raises(TenantThrottledError, match="in flight") as refusal:
            await dispatcher.score([job("a", 5000), job("b", 5000)])
        assert refusal.value.retry_after_ms == 700
        await asyncio.to_thread(wait_until, nothing_queued, 5.0, "an empty queue")
        await gate.close()

    asyncio.run(ask())
