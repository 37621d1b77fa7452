"""Real Redis servers, one per available version, and a builder of jobs for the gate's tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from service.gate.embedded import EmbeddedRedis
from service.gate.gate import WorkerGate
from service.gate.job import Job
from service.gate.settings import GateSettings
from tests.service.gate.client import POOL, SETTINGS, Api
from tests.service.gate.jobs import build_job

DEBIAN = shutil.which("redis-server")


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(None, id="redis-embedded"),
        pytest.param(
            DEBIAN,
            id="redis-debian",
            marks=pytest.mark.skipif(DEBIAN is None, reason="no redis-server is installed"),
        ),
    ],
)
def redis_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path_factory.mktemp("redis"), executable=request.param)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_client(redis_server: EmbeddedRedis) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(redis_server.url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis, redis_client: redis.Redis) -> str:
    """A server with nothing in it."""
    return redis_server.url


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture(scope="session")
def make_job() -> Callable[..., Job]:
    """Builds a job; see `build_job`."""
    return build_job


@pytest.fixture
def open_worker(redis_url: str) -> Iterator[Callable[..., WorkerGate]]:
    gates: list[WorkerGate] = []

    def open_gate(name: str = "worker", settings: GateSettings = SETTINGS) -> WorkerGate:
        gates.append(WorkerGate(redis_url, POOL, settings, name))
        return gates[-1]

    yield open_gate
    for gate in gates:
        gate.close()


@pytest.fixture
def worker(open_worker: Callable[..., WorkerGate]) -> WorkerGate:
    gate = open_worker()
    gate.join()
    return gate


@pytest.fixture
def open_api(redis_url: str) -> Iterator[Callable[..., Api]]:
    apis: list[Api] = []

    def open_one(**changes: Any) -> Api:
        apis.append(Api(redis_url, replace(SETTINGS, **changes)))
        return apis[-1]

    yield open_one
    for api in apis:
        api.close()


@pytest.fixture
def api(open_api: Callable[..., Api]) -> Api:
    return open_api()
