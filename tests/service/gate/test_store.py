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
from service.gate.errors import EvictingRedisError, GateUnavailableError
from service.gate.gate import WorkerGate
from service.gate.job import Level, Settlement
from service.gate.store import Store
from tests.service.gate.client import POOL, SETTINGS, Api
from tests.service.gate.jobs import build_job, chain
from tests.service.gate.redis_servers import limited


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


def test_a_redis_that_refuses_writes_is_gate_unavailable(
    redis_client: redis.Redis, api: Api, worker: WorkerGate
) -> None:
    unknown = [Settlement("nobody", 1, 0, b"")]
    worker.exchange(unknown, 1_000, 10)  # from now on Redis knows both scripts
    with limited(redis_client, "min-replicas-to-write"):
        with pytest.raises(GateUnavailableError):
            worker.claim(1_000, 10)
        with pytest.raises(GateUnavailableError):
            worker.exchange(unknown, 1_000, 10)
        with pytest.raises(GateUnavailableError):
            api.replies()
    worker.claim(1_000, 10)
    assert api.replies() == []


def test_no_worker_joins_a_redis_that_may_throw_its_jobs_away(
    redis_client: redis.Redis, worker: WorkerGate
) -> None:
    with limited(redis_client, "maxmemory-policy", "allkeys-lru"):
        worker.join()  # without a limit nothing is thrown away
        with (
            limited(redis_client, "maxmemory", "1000000000"),
            pytest.raises(EvictingRedisError, match=r"allkeys-lru.*noeviction"),
        ):
            worker.join()


def test_a_redis_that_keeps_its_settings_to_itself_is_joined(
    redis_client: redis.Redis, worker: WorkerGate
) -> None:
    redis_client.execute_command("ACL", "SETUSER", "default", "-info")
    try:
        worker.join()
    finally:
        redis_client.execute_command("ACL", "SETUSER", "default", "+info")


@pytest.mark.parametrize("command", ["evalsha", "zadd"], ids=["the call", "within a script"])
def test_a_redis_that_forbids_what_the_gate_needs_is_unavailable_and_says_what_to_allow(
    redis_client: redis.Redis, api: Api, command: str
) -> None:
    redis_client.execute_command("ACL", "SETUSER", "default", f"-{command}")
    try:
        with pytest.raises(GateUnavailableError, match=r"must allow ~\* and \+@all"):
            api.submit(build_job("job"))
    finally:
        redis_client.execute_command("ACL", "SETUSER", "default", f"+{command}")
    api.submit(build_job("job"))


def test_a_redis_whose_memory_is_full_takes_no_more_jobs_and_drains(
    redis_client: redis.Redis, api: Api, worker: WorkerGate
) -> None:
    jobs = [build_job(f"job-{number}", "acme/ada") for number in range(3)]
    for job in jobs:
        api.submit(job)
    api.replies()
    with limited(redis_client, "maxmemory"):
        with pytest.raises(GateUnavailableError, match=r"is full.*maxmemory"):
            api.submit(build_job("refused"))
        first, *others = worker.claim(1_000, 2, chain("ab")).jobs
        worker.renew([first, *others])
        worker.reap()
        rows = [Settlement(job.job_id, job.epoch, 1, b"") for job in (first, *others)]
        assert worker.settle(rows) == [True, True]
        assert api.stats("acme").nodes["acme"].queued_jobs == 1
        assert {reply.job_id for reply in api.replies()} == {"job-0", "job-1"}
        assert api.explain("job-2").state == "queued"
        assert api.cancel("job-2")
        worker.drain()
        worker.leave()
    assert not redis_client.exists("{pool}:job:refused")


@pytest.mark.timeout(30)
def test_a_frozen_redis_is_noticed_and_used_again_when_it_thaws(
    redis_client: redis.Redis, api: Api, worker: WorkerGate
) -> None:
    worker.join()
    server_pid = redis_client.info("server")["process_id"]
    os.kill(server_pid, signal.SIGSTOP)
    try:
        with pytest.raises(GateUnavailableError):
            api.submit(build_job("frozen"))
        with pytest.raises(GateUnavailableError):
            worker.wait_for_work()
    finally:
        os.kill(server_pid, signal.SIGCONT)
    api.submit(build_job("thawed"))
    assert "thawed" in [job.job_id for job in worker.claim(1_000, 10).jobs]


def test_a_mistake_in_a_script_is_not_called_an_outage(store: Store) -> None:
    with pytest.raises(redis.ResponseError):
        store.call("claim", ["worker", "many"])


def test_several_calls_of_one_round_trip_each_get_their_answer(store: Store) -> None:
    store.call("join", ["one"])
    store.call("stats", [])
    joined, stats = store.call_all([("join", ["two"]), ("stats", [])])
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

    async def late(pipeline: Pipeline, **options: Any) -> Any:
        await execute(pipeline, **options)
        raise redis.TimeoutError

    return late
