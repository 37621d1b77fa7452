"""One pool serves by one set of settings, whatever its processes were started with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import redis

from service.gate.errors import PoolSettingsError
from service.gate.gate import WorkerGate
from service.gate.settings import GateSettings
from tests.service.gate.client import POOL, Api
from tests.service.gate.jobs import build_job
from tests.service.gate.remote import Remote

SETTINGS = GateSettings(quantum=100, quantum_parts=1)
OTHERS = replace(SETTINGS, quantum=5_000, extend_weight=3)
Join = Callable[[str, GateSettings], WorkerGate]


@pytest.fixture
def join(redis_url: str) -> Iterator[Join]:
    gates: list[WorkerGate] = []

    def joined(name: str, settings: GateSettings) -> WorkerGate:
        gates.append(WorkerGate(redis_url, POOL, settings, name))
        gates[-1].join()
        return gates[-1]

    yield joined
    for gate in gates:
        gate.close()


@pytest.fixture
def api(redis_url: str) -> Iterator[Api]:
    """Started with other settings than the workers of most tests."""
    api = Api(redis_url, OTHERS)
    yield api
    api.close()


def serve_one(api: Api, worker: WorkerGate, name: str) -> tuple[int, int]:
    """The counter of a new tenant and the job's cost, once one job of 42 tokens was claimed."""
    api.submit(build_job(name, name))
    [claimed] = worker.claim(1_000, 1).jobs
    return api.stats(name).nodes[name].deficit, claimed.charged


def test_a_caller_with_other_settings_is_served_by_the_pools(api: Api, join: Join) -> None:
    worker = join("worker", SETTINGS)
    assert serve_one(api, worker, "tenant") == (100 - 42, 42)
    api.submit(build_job("waiting", "tenant", deadline_ms=50_000))
    assert api.explain("waiting").bound == 9 * 42  # of the pool's largest cost


def test_a_worker_with_other_settings_may_not_join_beside_live_ones(api: Api, join: Join) -> None:
    worker = join("worker", SETTINGS)
    with pytest.raises(PoolSettingsError, match=r"extend_weight = 1.*same settings") as raised:
        join("other", OTHERS)
    assert "quantum = 100" in str(raised.value)
    assert "overtakes" not in str(raised.value)
    assert serve_one(api, worker, "tenant") == (100 - 42, 42)
    assert [*api.stats().workers] == ["worker"]


def test_a_worker_may_join_under_another_policy(join: Join) -> None:
    join("worker", SETTINGS)
    assert join("other", replace(SETTINGS, policy="fcfs")).stats().policy == "dlpm"


@pytest.mark.parametrize("how", ["left", "drained", "restarted", "forgotten"])
def test_when_nobody_else_lives_a_worker_brings_its_settings(
    redis_client: redis.Redis, redis_url: str, api: Api, join: Join, how: str
) -> None:
    worker = join("worker", SETTINGS)
    serve_one(api, worker, "first")
    if how == "left":
        worker.leave()
    elif how == "drained":
        worker.drain()
    elif how == "forgotten":
        clock = Remote(redis_client, redis_url, POOL, SETTINGS)
        clock.pass_time(SETTINGS.worker_idle_ms)
    successor = join("worker" if how == "restarted" else "successor", OTHERS)
    api.cancel("first")
    assert serve_one(api, successor, "second")[1] == 3 * 42
