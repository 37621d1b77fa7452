"""The gate on real redis-server processes that are killed, frozen, flushed and failed over."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from service.gate.embedded import shipped_executable
from service.gate.errors import GateUnavailableError
from service.gate.gate import WorkerGate
from tests.e2e.server import wait_until
from tests.service.gate.client import POOL, SETTINGS, Api
from tests.service.gate.jobs import build_job
from tests.service.gate.load import finish, loading, scored
from tests.service.gate.redis_servers import RedisServer, in_step, running

DURABLE = {"appendfsync": "always"}
FAKE_TIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "primary", DURABLE)
    with running(server):
        yield server


@pytest.mark.timeout(120)
def test_nothing_acknowledged_is_lost_when_redis_is_killed_under_load(server: RedisServer) -> None:
    """With `appendfsync always`. `everysec` loses what the kernel had not written, a second or so,
    when the machine dies; a killed process alone loses nothing that it acknowledged."""
    with loading(server.url) as load:
        for round_of_kills in range(3):
            load.wait_for(200 * (round_of_kills + 1))
            server.kill()
            server.start()
    replies, _cost = finish(server.url)
    assert load.outages > 0
    assert load.accepted | set(load.settled) <= set(replies)
    assert set(replies.values()) == {1}


@pytest.mark.timeout(120)
def test_flushed_scripts_are_loaded_again_under_load(server: RedisServer) -> None:
    client = server.client()
    with loading(server.url) as load:
        for jobs in range(0, 600, 20):
            load.wait_for(jobs)
            client.script_flush()
    replies, _cost = finish(server.url)
    assert load.outages == 0
    assert set(replies) == load.accepted
    assert set(replies.values()) == {1}


@pytest.mark.long
def test_a_redis_frozen_for_five_seconds_ends_no_lease(server: RedisServer) -> None:
    settings = replace(SETTINGS, lease_ms=1_000)
    api, worker = Api(server.url, settings), WorkerGate(server.url, POOL, settings, "worker")
    worker.join()
    api.submit(build_job("job"))
    [claimed] = worker.claim(1_000, 1).jobs
    server.signal(signal.SIGSTOP)
    with pytest.raises(GateUnavailableError):
        worker.reap()
    threading.Event().wait(5.0)
    server.signal(signal.SIGCONT)
    reaped = worker.reap()
    assert (reaped.requeued, reaped.lost) == (0, 0)
    assert worker.renew([claimed]) == [True]
    assert worker.settle([scored(claimed)]) == [True]


@pytest.mark.skipif(FAKE_TIME is None, reason="libfaketime is not installed")
@pytest.mark.parametrize("step", ["+30", "-30"])
def test_a_clock_that_steps_by_thirty_seconds_ends_no_lease_and_no_deadline(
    tmp_path: Path, step: str
) -> None:
    """Redis under libfaketime; test_differential.py steps the clock that the pool has stored.

    The shipped server, since libfaketime and Debian's jemalloc wait for each other at the start.
    """
    clock, settings = tmp_path / "clock", replace(SETTINGS, lease_ms=5_000)
    clock.write_text("+0")
    faked = {"LD_PRELOAD": str(FAKE_TIME), "FAKETIME_TIMESTAMP_FILE": str(clock)}
    faked |= {"FAKETIME_NO_CACHE": "1"}
    server = RedisServer(tmp_path / "stepping", DURABLE, faked, shipped_executable())
    with running(server):
        api, worker = Api(server.url, settings), WorkerGate(server.url, POOL, settings, "worker")
        worker.join()
        api.replies()  # it listens; what says so ends by Redis' clock
        api.submit(build_job("leased"))
        api.submit(build_job("queued", deadline_ms=20_000))
        [first] = worker.claim(1, 1).jobs
        before = server.client().time()[0]
        clock.write_text(step)
        assert abs(server.client().time()[0] - before - int(step)) <= 1
        reaped = worker.reap()
        assert (reaped.requeued, reaped.expired) == (0, 0)
        [second] = worker.claim(1_000, 1).jobs
        assert second.epoch > first.epoch
        assert 0 <= second.queue_ms < 5_000
        assert worker.settle([scored(first), scored(second)]) == [True, True]


@pytest.mark.long
def test_after_a_failover_epochs_still_fence_and_nothing_is_charged_twice(
    server: RedisServer, tmp_path: Path
) -> None:
    """What the replica had not received is lost, no more; whoever holds its lease is refused."""
    replica = RedisServer(tmp_path / "replica", DURABLE)
    with running(replica):
        replica.client().execute_command("REPLICAOF", "127.0.0.1", server.port)
        api, worker = Api(server.url, SETTINGS), WorkerGate(server.url, POOL, SETTINGS, "worker")
        worker.join()
        for number in range(20):
            api.submit(build_job(f"kept-{number}", f"tenant-{number % 3}"))
        settled = worker.claim(10_000, 5).jobs
        worker.settle([scored(claimed) for claimed in settled])
        leased = worker.claim(10_000, 5).jobs
        wait_until(lambda: in_step(server, replica), 10.0, "the replica")
        replica.client().execute_command("REPLICAOF", "NO", "ONE")
        api.submit(build_job("lost"))
        unseen = worker.claim(10_000, 5).jobs
        server.kill()

        successor = WorkerGate(replica.url, POOL, SETTINGS, "worker")
        assert successor.settle([scored(claimed) for claimed in leased]) == [True] * 5
        assert (
            successor.settle([scored(claimed) for claimed in (*settled, *unseen)]) == [False] * 10
        )
        successor.join()
        again = list(successor.claim(10_000, 100).jobs)
        assert {job.job_id for job in unseen} <= {job.job_id for job in again}
        assert min(job.epoch for job in again) > max(job.epoch for job in unseen)
        assert successor.settle([scored(claimed) for claimed in unseen]) == [False] * 5
        successor.settle([scored(claimed) for claimed in again])
        replies, _cost = finish(replica.url)
    assert replies == Counter(f"kept-{number}" for number in range(20))
