"""No caller waits for ever, and whom it leaves behind in the queue is taken out of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from service.base.errors import ScoringError
from service.dispatch import dispatch
from service.dispatch.dispatch import Dispatcher
from service.gate.errors import (
    DeadlineExceededError,
    GateUnavailableError,
    TenantThrottledError,
)
from service.gate.gate import AsyncGate, WorkerGate
from service.gate.job import Explanation, GateStats, Reply, Settlement
from service.gate.settings import GateSettings
from service.jobs.jobs import JobFailure, encode_failure
from tests.e2e.server import wait_until
from tests.service.dispatch.dispatched import job, queued, until


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


def test_before_redis_was_ever_reached_it_is_redis_that_is_missing(tmp_path: Path) -> None:
    async def ask() -> None:
        gate = AsyncGate(f"unix://{tmp_path}/nobody", "pool", GateSettings())
        dispatcher = Dispatcher(gate)
        assert not await dispatcher.ready()
        with pytest.raises(GateUnavailableError, match="Redis is away"):
            await dispatcher.score([job("a", 5000)])
        await gate.close()

    asyncio.run(ask())


class Flaky(AsyncGate):
    """A gate that may be told to fail, and that counts its calls."""

    fails = 0
    calls = 0
    looks = 0

    async def cancel_all(self, job_ids: Sequence[str]) -> list[bool]:
        self.calls += 1
        if self.fails:
            self.fails -= 1
            raise GateUnavailableError("away", retry_after_ms=1)
        return await super().cancel_all(job_ids)

    async def stats(self, nodes: Sequence[str] = ()) -> GateStats:
        self.looks += 1
        return await super().stats(nodes)


def test_those_who_hang_up_are_cancelled_in_few_calls_and_again_until_redis_answers(
    service_redis_url: str, pool: str, caplog: pytest.LogCaptureFixture
) -> None:
    worker = WorkerGate(service_redis_url, pool, GateSettings(), "worker")
    worker.join()

    async def hang_up() -> None:
        gate = Flaky(service_redis_url, pool, GateSettings())
        dispatcher = Dispatcher(gate)
        assert await dispatcher.ready()
        jobs = [job(f"job-{number}", 20_000) for number in range(150)]
        slates = [asyncio.create_task(dispatcher.score([one])) for one in jobs]
        await until(lambda: queued(gate, 150))
        gate.fails = 2
        for slate in slates:
            slate.cancel()
        await until(lambda: queued(gate, 0))
        assert gate.fails == 0
        assert gate.calls <= 20
        last = asyncio.create_task(dispatcher.score([job("last", 20_000)]))
        await until(lambda: queued(gate, 1))
        last.cancel()
        await asyncio.gather(last, return_exceptions=True)
        await dispatcher.finish()
        assert await queued(gate, 0)
        gate.fails = 1
        with pytest.raises(DeadlineExceededError):
            await dispatcher.score([job("unsent", 0)])
        await asyncio.wait_for(dispatcher.finish(), 5.0)
        await gate.close()

    asyncio.run(hang_up())
    told = [one.getMessage() for one in caplog.records if one.name == "fairslate.abandoned"]
    what = "nobody awaits what is still queued"
    begins, ends = f"{what}: away", f"{what}: no more, Redis is back"
    assert told == [begins, ends, begins], "one line for two tries that failed"


def test_a_dropped_connection_fails_nobody(service_redis_url: str, pool: str) -> None:
    settings = GateSettings()
    worker = WorkerGate(service_redis_url, pool, settings, "worker")
    worker.join()
    admin = redis.Redis.from_url(service_redis_url)

    def drop_connections() -> None:
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def wait_through_it() -> None:
        gate = AsyncGate(service_redis_url, pool, settings)
        dispatcher = Dispatcher(gate)
        assert await dispatcher.ready()
        reading = asyncio.create_task(dispatcher.read_replies())
        one = replace(job("job", 20_000), reply_to=dispatcher.reply_to)
        waiting = asyncio.create_task(dispatcher.score([one]))
        await until(lambda: queued(gate, 1))
        await asyncio.to_thread(drop_connections)
        [claimed] = (await asyncio.to_thread(worker.claim, 10_000, 1)).jobs
        result = encode_failure(JobFailure("x", "scored all the same"))
        worker.settle([Settlement("job", claimed.epoch, 1, result)])
        with pytest.raises(ScoringError, match="scored all the same"):
            await waiting
        dispatcher.close()
        await reading
        await gate.close()

    asyncio.run(asyncio.wait_for(wait_through_it(), 20.0))
    admin.close()


def test_jobs_of_requests_that_a_lost_redis_failed_do_not_stay_queued(
    service_redis_url: str, pool: str
) -> None:
    worker = WorkerGate(service_redis_url, pool, GateSettings(), "worker")
    worker.join()

    class Deaf(AsyncGate):
        async def next_replies(self, reply_to: str, timeout_s: float = 0.0) -> list[Reply]:
            await until(lambda: queued(self, 1))
            raise GateUnavailableError("away", retry_after_ms=1)

    async def fail() -> None:
        gate = Deaf(service_redis_url, pool, GateSettings())
        dispatcher = Dispatcher(gate)
        assert await dispatcher.ready()
        reading = asyncio.create_task(dispatcher.read_replies())
        with pytest.raises(GateUnavailableError):
            await dispatcher.score([job("job", 20_000)])
        dispatcher.close()
        await until(lambda: queued(gate, 0))
        reading.cancel()
        await gate.close()

    asyncio.run(asyncio.wait_for(fail(), 20.0))


def test_a_flood_of_probes_looks_once_and_shows_the_pool_to_nobody(
    service_redis_url: str, pool: str
) -> None:
    worker = WorkerGate(service_redis_url, pool, GateSettings(), "worker")
    worker.join()
    shown: list[GateStats] = []

    async def probe() -> None:
        gate = Flaky(service_redis_url, pool, GateSettings())
        dispatcher = Dispatcher(gate, shown.append)
        assert all(await asyncio.gather(*[dispatcher.ready() for _ in range(200)]))
        assert gate.looks == 1
        assert not shown
        await gate.close()

    asyncio.run(probe())


def test_an_answered_chunk_of_a_slate_is_told_from_one_that_waits_and_from_an_unknown_one(
    service_redis_url: str, pool: str
) -> None:
    worker = WorkerGate(service_redis_url, pool, GateSettings(), "worker")
    worker.join()

    async def ask() -> None:
        gate = AsyncGate(service_redis_url, pool, GateSettings())
        dispatcher = Dispatcher(gate)
        assert await dispatcher.ready()
        reading = asyncio.create_task(dispatcher.read_replies())
        chunks = [replace(job(name, 20_000), reply_to=dispatcher.reply_to) for name in ("a", "b")]
        waiting = asyncio.create_task(dispatcher.score(chunks))
        await until(lambda: queued(gate, 2))
        [claimed] = (await asyncio.to_thread(worker.claim, 10_000, 1)).jobs
        worker.settle([Settlement("a", claimed.epoch, 1, encode_failure(JobFailure("x", "y")))])

        async def told(*expected: str) -> bool:
            answers = await dispatcher.explain(["a", "b", "c"])
            return tuple(answer.state for answer in answers) == expected

        await until(lambda: told("answered", "queued", "unknown"))
        waiting.cancel()
        dispatcher.close()
        await reading
        await gate.close()

    asyncio.run(asyncio.wait_for(ask(), 20.0))


def test_few_explanations_are_asked_for_at_once(service_redis_url: str, pool: str) -> None:
    class Counting(AsyncGate):
        asking = most = 0

        async def explain(self, job_id: str) -> Explanation:
            self.asking += 1
            self.most = max(self.most, self.asking)
            explanation = await super().explain(job_id)
            self.asking -= 1
            return explanation

    async def ask() -> None:
        gate = Counting(service_redis_url, pool, GateSettings())
        dispatcher = Dispatcher(gate)
        answers = await asyncio.gather(*[dispatcher.explain(["unknown"]) for _ in range(50)])
        assert answers == [[Explanation("unknown")]] * 50
        assert gate.most == dispatch.EXPLAINED_AT_ONCE
        await gate.close()

    asyncio.run(ask())
