"""Scripts and errors of the one file that speaks to Redis."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

import pytest
import redis

from service.gate.embedded import EmbeddedRedis
from service.gate.errors import GateUnavailableError
from service.gate.gate import AsyncGate, WorkerGate
from service.gate.job import Job
from service.gate.settings import GateSettings
from service.gate.store import Store

SETTINGS = GateSettings()


def submit(url: str, *jobs: Job) -> None:
    async def run() -> None:
        gate = AsyncGate(url, "pool", SETTINGS)
        try:
            for job in jobs:
                await gate.submit(job)
        finally:
            await gate.close()

    asyncio.run(run())


def test_scripts_survive_a_script_flush(
    redis_client: redis.Redis, redis_url: str, make_job: Callable[..., Job]
) -> None:
    worker = WorkerGate(redis_url, "pool", SETTINGS, "worker")
    submit(redis_url, make_job("first"))
    redis_client.script_flush()
    submit(redis_url, make_job("second"))
    redis_client.script_flush()
    assert len(worker.claim(1_000, 10).jobs) == 2
    worker.close()


def test_every_key_carries_the_pools_hash_tag(
    redis_client: redis.Redis, redis_url: str, make_job: Callable[..., Job]
) -> None:
    submit(redis_url, make_job("one", "te{nant}"), make_job("two", "a:b"))
    WorkerGate(redis_url, "pool", SETTINGS, "worker").claim(1_000, 1, ["block"])
    assert all(key.startswith(b"{pool}:") for key in redis_client.scan_iter())


def test_pools_do_not_see_each_other(redis_url: str, make_job: Callable[..., Job]) -> None:
    submit(redis_url, make_job("job"))
    assert WorkerGate(redis_url, "other", SETTINGS, "worker").claim(1_000, 10).jobs == ()


def test_a_pool_name_that_would_break_the_hash_tag_is_refused(redis_url: str) -> None:
    with pytest.raises(ValueError, match="letters, digits"):
        Store(redis_url, "po}ol", SETTINGS)


def test_an_absent_redis_is_gate_unavailable_with_a_retry_after(tmp_path: Path) -> None:
    worker = WorkerGate(f"unix://{tmp_path}/none.sock", "pool", SETTINGS, "worker")
    with pytest.raises(GateUnavailableError) as outage:
        worker.join()
    assert outage.value.status == HTTPStatus.SERVICE_UNAVAILABLE
    assert outage.value.retry_after_ms == 1_000


@pytest.mark.parametrize(
    ("setting", "trouble", "remedy"),
    [("maxmemory", "1", "0"), ("min-replicas-to-write", "1", "0")],
    ids=["memory is full", "replicas are missing"],
)
def test_a_redis_that_refuses_writes_is_gate_unavailable(
    redis_client: redis.Redis, redis_url: str, setting: str, trouble: str, remedy: str
) -> None:
    worker = WorkerGate(redis_url, "pool", SETTINGS, "worker")
    worker.claim(1_000, 10)
    redis_client.config_set(setting, trouble)
    try:
        with pytest.raises(GateUnavailableError):
            worker.claim(1_000, 10)
    finally:
        redis_client.config_set(setting, remedy)
    worker.claim(1_000, 10)


@pytest.mark.timeout(10)
def test_a_frozen_redis_is_noticed_and_used_again_when_it_thaws(
    redis_server: EmbeddedRedis, redis_url: str, make_job: Callable[..., Job]
) -> None:
    worker = WorkerGate(redis_url, "pool", SETTINGS, "worker")
    worker.join()
    assert redis_server.server_pid
    os.kill(redis_server.server_pid, signal.SIGSTOP)
    try:
        with pytest.raises(GateUnavailableError):
            submit(redis_url, make_job("frozen"))
        with pytest.raises(GateUnavailableError):
            worker.wait_for_work()
    finally:
        os.kill(redis_server.server_pid, signal.SIGCONT)
    submit(redis_url, make_job("thawed"))
    assert "thawed" in [job.job_id for job in worker.claim(1_000, 10).jobs]


def test_a_mistake_in_a_script_is_not_called_an_outage(redis_url: str) -> None:
    with pytest.raises(redis.ResponseError):
        Store(redis_url, "pool", SETTINGS).call("stats", ["many"])
