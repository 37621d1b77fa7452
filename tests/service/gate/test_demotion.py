"""A primary that becomes a replica while somebody waits for it is an outage, and soon none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from service.gate.errors import GateUnavailableError
from service.gate.gate import WorkerGate
from service.gate.store import LONGEST_POP_S
from tests.e2e.server import wait_until
from tests.service.gate.client import POOL, SETTINGS, Api
from tests.service.gate.jobs import build_job
from tests.service.gate.redis_servers import RedisServer, demoted, running

TIMES = 3  # a call that was between two waits meets another error


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "primary")
    with running(server):
        yield server


@pytest.fixture
def worker(server: RedisServer) -> Iterator[WorkerGate]:
    gate = WorkerGate(server.url, POOL, SETTINGS, "worker")
    gate.join()
    yield gate
    gate.close()


@pytest.fixture
def api(server: RedisServer) -> Iterator[Api]:
    api = Api(server.url, SETTINGS)
    yield api
    api.close()


def interrupt(server: RedisServer, wait: Callable[[], Any]) -> None:
    """Demotes Redis while this waits, again and again."""

    def until_it_fails() -> None:
        while True:
            wait()

    def serves() -> bool:
        with suppress(GateUnavailableError):  # Redis has closed the connection
            wait()
            return True
        return False

    def blocks() -> bool:
        return bool(server.client().info("clients")["blocked_clients"])

    with ThreadPoolExecutor(1) as threads:
        for _ in range(TIMES):
            waiting = threads.submit(until_it_fails)
            wait_until(blocks, 10.0, "a blocked call")
            with demoted(server), pytest.raises(GateUnavailableError, match="is a replica"):
                waiting.result(10.0)
            wait_until(serves, 10.0, "a primary")


def test_an_engine_that_waits_for_work_outlives_it(
    server: RedisServer, worker: WorkerGate, api: Api
) -> None:
    interrupt(server, lambda: worker.wait_for_work(LONGEST_POP_S))
    api.submit(build_job("job"))
    assert [job.job_id for job in worker.claim(1_000, 1).jobs] == ["job"]


def test_an_api_process_that_waits_for_replies_outlives_it(server: RedisServer, api: Api) -> None:
    interrupt(server, lambda: api.replies(LONGEST_POP_S))
    api.submit(build_job("job"))
