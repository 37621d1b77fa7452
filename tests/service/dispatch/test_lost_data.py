"""Who waits for a job that Redis lost hears of it at once, and nobody else does."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import redis

from service.base.errors import ScoringError
from service.dispatch.dispatch import Dispatcher
from service.gate.errors import GateUnavailableError
from service.gate.gate import AsyncGate, WorkerGate
from service.gate.job import Explanation, Outcome, Reply, Settlement
from service.gate.settings import GateSettings
from service.gate.store import REPLIES_AT_ONCE
from service.jobs.jobs import JobFailure, encode_failure
from tests.service.dispatch.dispatched import job, queued, until


def test_a_redis_that_lost_its_data_without_a_word_fails_at_once_all_that_waited(
    service_redis_url: str, pool: str
) -> None:
    worker = WorkerGate(service_redis_url, pool, GateSettings(), "worker")
    worker.join()
    admin = redis.Redis.from_url(service_redis_url)

    async def wait_in_vain() -> None:
        gate = AsyncGate(service_redis_url, pool, GateSettings())
        dispatcher = Dispatcher(gate)
        assert await dispatcher.ready()
        reading = asyncio.create_task(dispatcher.read_replies())
        lost = [asyncio.create_task(dispatcher.score([job(name, 60_000)])) for name in "abc"]
        await until(lambda: queued(gate, 3))
        await asyncio.to_thread(admin.flushall)
        await asyncio.to_thread(worker.join)
        later = asyncio.create_task(dispatcher.score([job("later", 60_000)]))
        await until(lambda: queued(gate, 1))
        watching = asyncio.create_task(dispatcher.watch_engines())
        errors = await asyncio.gather(*lost, return_exceptions=True)
        assert {type(error) for error in errors} == {GateUnavailableError}
        assert {str(error) for error in errors} == {"Redis lost the job; retry"}
        assert dispatcher.awaits("later")
        later.cancel()
        dispatcher.close()
        await asyncio.gather(reading, watching)
        await gate.close()

    asyncio.run(asyncio.wait_for(wait_in_vain(), 20.0))
    admin.close()


def test_a_job_that_the_pool_forgot_with_its_answer_on_the_way_is_not_lost(
    service_redis_url: str, pool: str
) -> None:
    worker = WorkerGate(service_redis_url, pool, GateSettings(), "worker")
    worker.join()
    of_others = [Reply("another", Outcome.DEADLINE, b"")] * REPLIES_AT_ONCE

    class Late(AsyncGate):
        """A read that misses the answer, one that stops short of it, and then one that has it."""

        reads = 0
        unknown = asyncio.Event()

        async def next_replies(self, reply_to: str, timeout_s: float = 0.0) -> list[Reply]:
            self.reads += 1
            if self.reads <= 2:
                await self.unknown.wait()
                return of_others if self.reads == 2 else []
            return await super().next_replies(reply_to, timeout_s)

        async def explain(self, job_id: str) -> Explanation:
            explanation = await super().explain(job_id)
            assert explanation.state == "unknown"
            self.unknown.set()
            return explanation

    async def be_answered() -> None:
        gate = Late(service_redis_url, pool, GateSettings())
        dispatcher = Dispatcher(gate)
        assert await dispatcher.ready()
        reading = asyncio.create_task(dispatcher.read_replies())
        one = replace(job("job", 20_000), reply_to=dispatcher.reply_to)
        waiting = asyncio.create_task(dispatcher.score([one]))
        await until(lambda: queued(gate, 1))
        [claimed] = (await asyncio.to_thread(worker.claim, 10_000, 1)).jobs
        result = encode_failure(JobFailure("x", "scored all the same"))
        [taken] = worker.settle([Settlement("job", claimed.epoch, 1, result)])
        assert taken
        watching = asyncio.create_task(dispatcher.watch_engines())
        with pytest.raises(ScoringError, match="scored all the same"):
            await waiting
        assert gate.reads >= 3
        dispatcher.close()
        await asyncio.gather(reading, watching)
        await gate.close()

    asyncio.run(asyncio.wait_for(be_answered(), 20.0))
