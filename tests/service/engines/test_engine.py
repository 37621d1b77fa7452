"""The loop answers every job it claims, whatever the engine does. Real Redis, scripted engines."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from models.engines.base import ScoreJob
from models.errors import CandidateTooLongError
from service.base.errors import ScoringError
from service.dispatch.dispatch import Dispatcher
from service.engines.engine import LEAVE_SECONDS, EngineLoop
from service.engines.joint_engine import JointEngine
from service.gate.errors import GateUnavailableError
from service.gate.gate import AsyncGate, WorkerGate
from service.gate.job import Claim, Reply, Settlement
from service.gate.settings import GateSettings
from service.jobs.engine_report import EngineReport, decode_report
from service.jobs.jobs import JobResult, decode_result, encode_job
from tests.e2e.server import wait_until
from tests.service.engines.scripted_engine import (
    LONGEST,
    ScriptedEngine,
    job,
    only_candidate,
    submit,
)


@contextmanager
def serving(url: str, pool: str, engine: ScriptedEngine) -> Iterator[None]:
    gate = WorkerGate(url, pool, GateSettings(), "worker")
    loop = EngineLoop(JointEngine(engine), gate, token_budget=4096, max_batch_jobs=8)
    threads = [threading.Thread(target=target) for target in (loop.run, loop.keep)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: bool(gate.stats().workers), 10.0, "the worker")
        yield
    finally:
        loop.stop()
        for thread in threads:
            thread.join(10.0)
    assert not any(thread.is_alive() for thread in threads)


async def dispatched(
    url: str, pool: str, *payloads: bytes | None
) -> list[list[JobResult] | BaseException]:
    """Outcome of one slate per payload, all sent at once."""
    gate = AsyncGate(url, pool, GateSettings())
    dispatcher = Dispatcher(gate)
    reader = asyncio.create_task(dispatcher.read_replies())
    assert await dispatcher.ready()
    slates = [
        dispatcher.score([job(str(number), dispatcher.reply_to, payload)])
        for number, payload in enumerate(payloads)
    ]
    outcomes = await asyncio.gather(*slates, return_exceptions=True)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    assert dispatcher.in_flight == 0
    await gate.close()
    return outcomes


def test_each_job_gets_its_own_scores(service_redis_url: str, pool: str) -> None:
    engine = ScriptedEngine(only_candidate)
    with serving(service_redis_url, pool, engine):
        outcomes = asyncio.run(dispatched(service_redis_url, pool, *[None] * 20))
    rows = [outcome[0].rows for outcome in outcomes if isinstance(outcome, list)]
    assert rows == [[(float(number),)] for number in range(20)]
    assert sum(engine.batches) == 20
    assert max(engine.batches) <= 8


def test_failing_engine_fails_every_waiter_with_its_cause(
    service_redis_url: str, pool: str
) -> None:
    observer = WorkerGate(service_redis_url, pool, GateSettings(), "observer")

    def explode(_: ScoreJob) -> float:
        # The first batch lasts until the others wait, so that the second one holds them all.
        if len(engine.batches) == 1:
            wait_until(lambda: observer.stats().queued_jobs == 4 - engine.batches[0], 5.0, "jobs")
        raise RuntimeError("out of memory, buy more")

    engine = ScriptedEngine(explode)
    with serving(service_redis_url, pool, engine):
        outcomes = asyncio.run(dispatched(service_redis_url, pool, *[None] * 4))
    assert max(engine.batches) > 1
    for outcome in outcomes:
        assert isinstance(outcome, ScoringError)
        assert "RuntimeError: out of memory, buy more" in str(outcome)


def test_damaged_payload_and_nan_spoil_only_their_own_job(
    service_redis_url: str, pool: str
) -> None:
    def nan_for_two(score_job: ScoreJob) -> float:
        return math.nan if score_job.candidates[0] == (2,) else 1.0

    with serving(service_redis_url, pool, ScriptedEngine(nan_for_two)):
        good, damaged, nan = asyncio.run(dispatched(service_redis_url, pool, None, b"?", None))
    assert isinstance(good, list)
    assert isinstance(damaged, ScoringError)
    assert isinstance(nan, ScoringError)
    assert "not finite" in str(nan)


def test_a_job_that_the_engine_refuses_spoils_only_itself(
    service_redis_url: str, pool: str
) -> None:
    beyond = encode_job(ScoreJob((1, 2, 3), ("0" * 32,), ((1,) * (LONGEST + 1),)), 10_000)
    with serving(service_redis_url, pool, ScriptedEngine(only_candidate)):
        outcomes = asyncio.run(dispatched(service_redis_url, pool, None, beyond, None))
    good, refused, other = outcomes
    assert isinstance(good, list)
    assert isinstance(other, list)
    assert isinstance(refused, CandidateTooLongError)
    assert (refused.status, str(refused)) == (400, "5 tokens exceed 4")


def test_a_batch_carries_one_report_of_its_engine(service_redis_url: str, pool: str) -> None:
    engine = ScriptedEngine(only_candidate)
    with serving(service_redis_url, pool, engine):
        outcomes = asyncio.run(dispatched(service_redis_url, pool, *[None] * 20))
    reports = [outcome[0].report for outcome in outcomes if isinstance(outcome, list)]
    said = [decode_report(report) for report in reports if report]
    assert said == [EngineReport("worker", {"dtype": "scripted"}, (0.5,))] * len(engine.batches)


def test_a_result_tells_how_often_its_job_was_passed(service_redis_url: str, pool: str) -> None:
    """Three jobs share a context: the last two find it computed, and go before an older one."""
    alone = job("9", "api")
    chain, payload = ("f" * 32,), encode_job(ScoreJob((1, 2, 3), ("f" * 32,), ((9,),)), 10_000)
    alone = replace(alone, context_hashes=chain, payload=payload)

    async def overtaken() -> dict[str, int]:
        gate = AsyncGate(service_redis_url, pool, GateSettings())
        await gate.submit(alone)
        came_ms = (await gate.stats()).now_ms
        while (await gate.stats()).now_ms == came_ms:
            pass
        for number in range(3):
            await gate.submit(job(str(number), "api"))
        replies: list[Reply] = []
        with serving(service_redis_url, pool, ScriptedEngine(only_candidate)):
            while len(replies) < 4:
                replies += await gate.next_replies("api")
        await gate.close()
        results = {reply.job_id: decode_result(reply.result) for reply in replies}
        return {name: one.overtaken for name, one in results.items() if isinstance(one, JobResult)}

    assert asyncio.run(overtaken()) == {"api-9": 2, "api-0": 0, "api-1": 0, "api-2": 0}


def test_stopping_settles_the_batch_in_hand_and_takes_no_other(
    service_redis_url: str, pool: str
) -> None:
    observer = WorkerGate(service_redis_url, pool, GateSettings(), "observer")
    worker = WorkerGate(service_redis_url, pool, GateSettings(), "worker")

    def stop(score_job: ScoreJob) -> float:
        loop.stop()
        assert not observer.stats().workers, "nothing more is routed here"
        asyncio.run(submit(service_redis_url, pool, job("2", "here")))
        return only_candidate(score_job)

    engine = ScriptedEngine(stop)
    loop = EngineLoop(JointEngine(engine), worker, token_budget=4096, max_batch_jobs=8)
    worker.join()
    asyncio.run(submit(service_redis_url, pool, job("1", "here")))
    loop.run()
    stats = observer.stats()
    assert (engine.batches, stats.leased_jobs, stats.queued_jobs) == ([1], 0, 1)
    assert stats.service == 4, "the batch in hand was settled, not given back"


def test_what_was_scored_while_redis_was_away_is_settled_by_a_stop_once_it_is_back(
    service_redis_url: str, pool: str
) -> None:
    class Away(WorkerGate):
        outages = 2

        def settle(self, settlements: Sequence[Settlement], *rest: Any) -> list[bool]:
            if self.outages:
                self.outages -= 1
                raise GateUnavailableError("away", retry_after_ms=1)
            return super().settle(settlements, *rest)

        def exchange(self, settlements: Sequence[Settlement], *rest: Any) -> Claim:
            if settlements:
                loop.stop()
                raise GateUnavailableError("away", retry_after_ms=1)
            return super().exchange(settlements, *rest)

    observer = WorkerGate(service_redis_url, pool, GateSettings(), "observer")
    worker = Away(service_redis_url, pool, GateSettings(), "worker")
    loop = EngineLoop(
        JointEngine(ScriptedEngine(only_candidate)), worker, token_budget=4096, max_batch_jobs=8
    )
    worker.join()
    asyncio.run(submit(service_redis_url, pool, job("1", "here")))
    loop.run()
    stats = observer.stats()
    assert (stats.leased_jobs, stats.queued_jobs, stats.service) == (0, 0, 4)
    assert stats.workers == {}


def test_a_stop_beside_a_redis_that_hangs_waits_for_seconds_and_not_for_tries(
    service_redis_url: str, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    class Hanging(WorkerGate):
        def settle(self, settlements: Sequence[Settlement], *rest: Any) -> list[bool]:
            now[0] += 0.75  # until the socket gives up
            raise GateUnavailableError("away", retry_after_ms=1)

    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda _: None)
    monkeypatch.setattr("service.engines.engine.time", clock)
    worker = Hanging(service_redis_url, pool, GateSettings(), "worker")
    loop = EngineLoop(
        JointEngine(ScriptedEngine(only_candidate)), worker, token_budget=4096, max_batch_jobs=8
    )
    loop.stop()
    loop.run()
    assert LEAVE_SECONDS <= now[0] <= LEAVE_SECONDS + 0.75
