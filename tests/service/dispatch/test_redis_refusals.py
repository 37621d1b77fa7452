"""A Redis that answers but takes no writes: slates are told why, and the log once."""

from __future__ import annotations

import asyncio

import pytest
import redis

from service.dispatch import dispatch
from service.dispatch.dispatch import Dispatcher
from service.gate.errors import DeadlineExceededError, GateUnavailableError
from service.gate.gate import AsyncGate, WorkerGate
from service.gate.job import Job, Level
from service.gate.settings import GateSettings
from tests.service.gate.redis_servers import limited


def job(name: str, deadline_ms: int) -> Job:
    return Job(name, (Level("ada"),), 0, (), 16, 0, 1, deadline_ms, "here", b"")


def test_a_full_redis_says_so_to_each_and_once_in_the_log(
    service_redis_url: str,
    pool: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(dispatch, "CALM_SECONDS", 0.0)
    worker = WorkerGate(service_redis_url, pool, GateSettings(), "worker")
    worker.join()

    async def ask() -> None:
        gate = AsyncGate(service_redis_url, pool, GateSettings())
        dispatcher = Dispatcher(gate)
        with limited(redis.Redis.from_url(service_redis_url), "maxmemory"):
            for number in range(3):
                assert await dispatcher.ready()
                with pytest.raises(GateUnavailableError, match="is full"):
                    await dispatcher.score([job(f"refused-{number}", 5000)])
        for number in range(2):
            with pytest.raises(DeadlineExceededError):
                await dispatcher.score([job(f"taken-{number}", 1)])
        await dispatcher.finish()
        await gate.close()

    monkeypatch.setattr(dispatch, "GRACE_SECONDS", 0.01)
    asyncio.run(ask())
    told = [one.getMessage() for one in caplog.records if one.name == "fairslate.dispatch"]
    assert len(told) == 2
    assert told[0].startswith("slates are refused: Redis is full")
    assert told[1] == "slates are refused: no more, Redis is back"


def test_before_the_first_look_what_redis_lacks_is_told(service_redis_url: str, pool: str) -> None:
    async def ask() -> None:
        gate = AsyncGate(service_redis_url, pool, GateSettings())
        dispatcher = Dispatcher(gate)
        with limited(redis.Redis.from_url(service_redis_url), "min-replicas-to-write"):
            assert not await dispatcher.ready()
            with pytest.raises(GateUnavailableError, match="fewer replicas"):
                await dispatcher.score([job("a", 5000)])
        await gate.close()

    asyncio.run(ask())
