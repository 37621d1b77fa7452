"""An API process on a real Redis: what it is made of meets an engine there, and ends cleanly."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from models.directory import ModelDirectory
from models.engines.base import JobScores, ScoreJob
from service.api_process import ApiProcess
from service.base.config import Settings
from service.base.errors import EngineAbsentError
from service.gate.gate import WorkerGate
from service.gate.job import Claimed, Settlement
from service.jobs.jobs import JobResult, decode_job, encode_result
from service.process.garbage_collection import NEVER
from service.process.served_models import pool_name
from service.walk.reception import Call

REQUEST = b'{"context": "Welder.", "candidates": [{"id": "a", "text": "Weld."}]}'
AWAY = "redis://127.0.0.1:1"
pytestmark = pytest.mark.usefixtures("own_garbage")


@pytest.fixture
def settings(tiny_model_dir: Path) -> Settings:
    return Settings(model=str(tiny_model_dir), reasoner="")


@pytest.fixture
def worker(
    service_redis_url: str, settings: Settings, tiny_directory: ModelDirectory
) -> Iterator[WorkerGate]:
    """Of the pool that servers of this model share; nothing stays in it."""
    worker = WorkerGate(service_redis_url, pool_name(tiny_directory), settings.gate, "worker")
    yield worker
    worker.leave()
    worker.close()


def serve(
    settings: Settings,
    urls: Sequence[str],
    ask: Callable[[ApiProcess], Awaitable[object]],
    registry: CollectorRegistry,
) -> None:
    async def run() -> None:
        process = ApiProcess(settings, urls, registry)
        async with asyncio.timeout(60.0):
            async with process.serving():
                await ask(process)
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def call() -> Call:
    async def read() -> bytes:
        return REQUEST

    return Call("mine", None, read)


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    while not await condition():  # noqa: ASYNC110 - the loops tell nobody what they saw
        await asyncio.sleep(0.01)


def scored(job: Claimed) -> Settlement:
    """Each candidate with a logit of one."""
    work = decode_job(job.payload).job
    assert isinstance(work, ScoreJob)
    tokens = len(work.context_ids), 0, sum(map(len, work.candidates))
    scores = JobScores((1.0,) * len(work.candidates), *tokens)
    result = encode_result(JobResult(scores, 1.0, 1.0))
    return Settlement(job.job_id, job.epoch, scores.extend_tokens, result)


def serve_once(worker: WorkerGate) -> None:
    worker.wait_for_work(30.0)
    worker.settle([scored(job) for job in worker.claim(10_000, 10).jobs])


@pytest.mark.parametrize("away", [[], [AWAY]])
def test_a_slate_meets_an_engine_through_the_redis_that_is_there(
    service_redis_url: str, settings: Settings, worker: WorkerGate, away: list[str]
) -> None:
    registry = CollectorRegistry()

    def shown(name: str, **labels: str) -> float:
        return registry.get_sample_value(f"fairslate_{name}", labels) or 0.0

    async def charged() -> float:
        return shown("tenant_service", tenant="demo")

    async def rank(process: ApiProcess) -> None:
        await asyncio.to_thread(worker.join)  # not before: who says nothing for a while is absent
        await until(process.reception.ready)
        engine = asyncio.create_task(asyncio.to_thread(serve_once, worker))
        answer = await process.ranker.rank(call())
        await engine
        assert [row["id"] for row in answer["results"]] == ["a"]
        await until(charged)

    serve(settings, [*away, service_redis_url], rank, registry)
    assert shown("gate_mode", mode="local" if away else "shared") == 1.0
    assert shown("requests_total", tenant="demo", code="ok") == 1.0


def test_without_an_engine_nobody_waits_and_no_reasoner_is_offered(
    service_redis_url: str, settings: Settings
) -> None:
    async def rank(process: ApiProcess) -> None:
        assert not await process.reception.ready()
        assert process.reasoner is None
        with pytest.raises(EngineAbsentError):
            await process.ranker.rank(call())

    serve(settings, [service_redis_url], rank, CollectorRegistry())


def test_what_is_served_stays_out_of_the_garbage_collectors_way(
    service_redis_url: str, settings: Settings
) -> None:
    async def look(_: ApiProcess) -> None:
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold()[2] == NEVER

    serve(settings, [service_redis_url], look, CollectorRegistry())
