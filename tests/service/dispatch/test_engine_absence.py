"""Who asks or waits while no engine serves is told, but not before one can be replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from service.base.errors import EngineAbsentError
from service.dispatch import dispatch
from service.dispatch.dispatch import Dispatcher
from service.gate.gate import AsyncGate, WorkerGate
from service.gate.settings import GateSettings
from tests.e2e.server import wait_until
from tests.service.engines.scripted_engine import job


def test_who_waits_is_kept_until_a_silent_engine_can_be_replaced_and_nobody_is_added(
    service_redis_url: str, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "LOOK_SECONDS", -1.0)
    worker = WorkerGate(service_redis_url, pool, GateSettings(), "worker")
    worker.join()

    async def ask() -> None:
        gate = AsyncGate(service_redis_url, pool, GateSettings())
        dispatcher = Dispatcher(gate)
        assert await dispatcher.ready()
        first = asyncio.create_task(dispatcher.score([job("1", dispatcher.reply_to)]))
        await asyncio.to_thread(
            wait_until, lambda: worker.stats().queued_jobs == 1, 5.0, "the first job"
        )
        monkeypatch.setattr(dispatch, "ENGINE_SILENCE_MS", 0)
        await dispatcher.ready()
        with pytest.raises(EngineAbsentError):
            await dispatcher.score([job("2", dispatcher.reply_to)])
        assert not first.done()
        assert worker.stats().queued_jobs == 1
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await dispatcher.finish()
        await gate.close()

    asyncio.run(ask())


def test_without_an_engine_nothing_is_queued(service_redis_url: str, pool: str) -> None:
    async def ask() -> None:
        gate = AsyncGate(service_redis_url, pool, GateSettings())
        dispatcher = Dispatcher(gate)
        assert not await dispatcher.ready()
        with pytest.raises(EngineAbsentError):
            await dispatcher.score([job("1", dispatcher.reply_to)])
        assert (await gate.stats()).queued_jobs == 0
        await gate.close()

    asyncio.run(ask())


def leaves(worker: WorkerGate, _: pytest.MonkeyPatch) -> None:
    worker.leave()


def falls_silent(worker: WorkerGate, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool still lists it: so does one that was killed, for a minute."""
    for limit in ("ENGINE_SILENCE_MS", "READY_SILENCE_MS", "REPLACEMENT_MS"):
        monkeypatch.setattr(dispatch, limit, 0)
    assert worker.stats().workers


@pytest.mark.parametrize("goes", [leaves, falls_silent])
def test_waiting_job_fails_when_the_last_engine_goes(
    service_redis_url: str,
    pool: str,
    monkeypatch: pytest.MonkeyPatch,
    goes: Callable[[WorkerGate, pytest.MonkeyPatch], None],
) -> None:
    monkeypatch.setattr(dispatch, "LOOK_SECONDS", -1.0)
    worker = WorkerGate(service_redis_url, pool, GateSettings(), "worker")

    def queued() -> int:
        return worker.stats().queued_jobs

    async def ask() -> None:
        gate = AsyncGate(service_redis_url, pool, GateSettings())
        dispatcher = Dispatcher(gate)
        worker.join()
        assert await dispatcher.ready()
        waiting = asyncio.create_task(dispatcher.score([job("1", dispatcher.reply_to)]))
        await asyncio.to_thread(wait_until, lambda: queued() == 1, 5.0, "the job")
        goes(worker, monkeypatch)
        assert not await dispatcher.ready()
        with pytest.raises(EngineAbsentError):
            await asyncio.wait_for(waiting, 5.0)
        await asyncio.to_thread(wait_until, lambda: queued() == 0, 5.0, "an empty queue")
        await gate.close()

    asyncio.run(ask())
