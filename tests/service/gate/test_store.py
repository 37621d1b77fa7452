"""Scripts and errors of the one file that speaks to Redis."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.asyncio.client import Pipeline

from service.gate import wire
from service.gate.embedded import EmbeddedRedis
from service.gate.errors import GateUnavailableError
from service.gate.gate import WorkerGate
from service.gate.job import Level, Settlement
from service.gate.settings import GateSettings
from service.gate.store import Store
from tests.service.gate.client import POOL, Api
from tests.service.gate.jobs import build_job, chain

SETTINGS = GateSettings()


@pytest.fixture
def api(redis_url: str) -> Iterator[Api]:
    api = Api(redis_url, SETTINGS)
    yield api
    api.close()


@pytest.fixture
def worker(redis_url: str) -> Iterator[WorkerGate]:
    gate = WorkerGate(redis_url, POOL, SETTINGS, "worker")
    yield gate
    gate.close()


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    store = Store(redis_url, POOL, SETTINGS)
    yield store
    store.close()


def test_scripts_survive_a_script_flush(
    redis_client: redis.Redis, api: Api, worker: WorkerGate
) -> None:
    for name in ("first", "second"):
        api.submit(build_job(name))
        redis_client.script_flush()
    assert len(worker.claim(1_000, 10).jobs) == 2


def test_every_key_carries_the_pools_hash_tag(
    redis_client: redis.Redis, redis_url: str, worker: WorkerGate
) -> None:
    settings = replace(SETTINGS, attribution="split")
    api = Api(redis_url, settings)
    worker.claim(1_000, 0, chain("a"))
    for number, leaf in enumerate(("te{nant}/a:b", "plain", "te{nant}/b")):
        path = tuple(Level(name) for name in leaf.split("/"))
        job = build_job(f"{{job}}-{number}", context="abc")
        api.submit(replace(job, path=path))
    worker.settle([Settlement(one.job_id, one.epoch, 1, b"") for one in worker.claim(1, 1).jobs])
    worker.claim(1, 1)
    keys = [*redis_client.scan_iter()]
    assert len(keys) > 10
    assert [key for key in keys if not key.startswith(b"{pool}:")] == []
    api.close()


def test_pools_do_not_see_each_other(redis_url: str, api: Api) -> None:
    api.submit(build_job("job"))
    other = WorkerGate(redis_url, "other", SETTINGS, "worker")
    assert other.claim(1_000, 10).jobs == ()
    other.close()


def test_processes_with_other_settings_share_a_pool(redis_url: str, api: Api) -> None:
    api.submit(build_job("job"))
    other = WorkerGate(redis_url, POOL, replace(SETTINGS, lease_ms=7), "worker")
    assert len(other.claim(1_000, 10).jobs) == 1
    other.close()


@pytest.mark.parametrize("name", ["", "po}ol", "po:ol"])
def test_a_pool_name_that_would_break_the_hash_tag_is_refused(redis_url: str, name: str) -> None:
    with pytest.raises(ValueError, match="letters, digits"):
        Store(redis_url, name, SETTINGS)


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
    redis_client: redis.Redis, worker: WorkerGate, setting: str, trouble: str, remedy: str
) -> None:
    worker.claim(1_000, 10)
    redis_client.config_set(setting, trouble)
    try:
        with pytest.raises(GateUnavailableError):
            worker.claim(1_000, 10)
    finally:
        redis_client.config_set(setting, remedy)
    worker.claim(1_000, 10)


@pytest.mark.timeout(30)
def test_a_frozen_redis_is_noticed_and_used_again_when_it_thaws(
    redis_server: EmbeddedRedis, api: Api, worker: WorkerGate
) -> None:
    worker.join()
    assert redis_server.server_pid
    os.kill(redis_server.server_pid, signal.SIGSTOP)
    try:
        with pytest.raises(GateUnavailableError):
            api.submit(build_job("frozen"))
        with pytest.raises(GateUnavailableError):
            worker.wait_for_work()
    finally:
        os.kill(redis_server.server_pid, signal.SIGCONT)
    api.submit(build_job("thawed"))
    assert "thawed" in [job.job_id for job in worker.claim(1_000, 10).jobs]


def test_a_mistake_in_a_script_is_not_called_an_outage(store: Store) -> None:
    with pytest.raises(redis.ResponseError):
        store.call("stats", ["many"])


def test_several_calls_of_one_round_trip_each_get_their_answer(store: Store) -> None:
    store.call("join", ["one"])
    store.call("stats", [10])
    joined, stats = store.call_all([("join", ["two"]), ("stats", [10])])
    assert joined[1] == 0
    assert set(wire.read_stats(stats).workers) == {"one", "two"}


def test_answers_nobody_will_read_can_be_dropped(
    store: Store, api: Api, worker: WorkerGate
) -> None:
    api.submit(build_job("job"))
    [claimed] = worker.claim(1_000, 1).jobs
    worker.settle([Settlement("job", claimed.epoch, 1, b"")])
    store.delete_replies("api")
    assert api.replies() == []


def test_answers_that_nobody_reads_vanish_by_themselves(
    redis_client: redis.Redis, store: Store, api: Api, worker: WorkerGate
) -> None:
    api.submit(build_job("job"))
    [claimed] = worker.claim(1_000, 1).jobs
    worker.settle([Settlement("job", claimed.epoch, 1, b"")])
    assert 0 < redis_client.pttl(store.reply_key("api")) <= SETTINGS.reply_ttl_ms


def test_a_store_tells_what_redis_says_of_itself(redis_server: EmbeddedRedis, store: Store) -> None:
    assert store.info()["process_id"] == redis_server.server_pid


def test_replies_whose_answer_came_too_late_come_again(
    monkeypatch: pytest.MonkeyPatch, api: Api, worker: WorkerGate
) -> None:
    answered(api, worker, "first")
    answered(api, worker, "second")
    with monkeypatch.context() as network:
        network.setattr(Pipeline, "execute", losing_answers(Pipeline.execute))
        with pytest.raises(GateUnavailableError):
            api.replies()
    assert [reply.job_id for reply in api.replies()] == ["first", "second"]
    assert api.replies() == []


def test_replies_that_were_read_leave_redis_with_the_next_look(
    redis_client: redis.Redis, store: Store, api: Api, worker: WorkerGate
) -> None:
    for name in ("first", "second", "third"):
        answered(api, worker, name)
        assert [reply.job_id for reply in api.replies()] == [name]
    assert redis_client.xlen(store.reply_key("api")) == 1
    assert api.replies() == []
    assert redis_client.xlen(store.reply_key("api")) == 0


def answered(api: Api, worker: WorkerGate, job_id: str) -> None:
    """A job of this name that was sent, served and settled."""
    api.submit(build_job(job_id))
    [claimed] = worker.claim(1_000, 1).jobs
    worker.settle([Settlement(job_id, claimed.epoch, 1, b"")])


def losing_answers(execute: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """What Redis does it does; its answer does not arrive."""

    async def late(pipeline: Pipeline) -> Any:
        await execute(pipeline)
        raise redis.TimeoutError

    return late
