"""Kills under load: every caller hears an answer or an error, and nothing is charged twice."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from loadtest.redis_process import RedisProcess
from models.directory import ModelDirectory
from service.gate.gate import WorkerGate
from service.gate.job import GateStats
from service.gate.settings import GateSettings
from tests.e2e.server import RunningServer, running_server, served_pool, wait_until

pytestmark = pytest.mark.long

REQUESTS = 400
CONCURRENT = 16
KILL_AFTER = 100  # answers


@dataclass(frozen=True, slots=True)
class Heard:
    """What one caller heard; status 0 is a connection that broke."""

    status: int
    extend_tokens: int = 0


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    process = RedisProcess(tmp_path_factory.mktemp("redis"))
    process.start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path, redis: RedisProcess
) -> Iterator[RunningServer]:
    """Two engines whose leases end soon, small batches so that a kill meets one."""
    with running_server(
        tmp_path_factory.mktemp("server"),
        model=str(tiny_model_dir),
        redis_url=redis.url,
        engine_workers="2",
        threads="1",
        lease_ms="2000",
        token_budget="256",
        max_deadline_ms="60000",
    ) as running:
        wait_until(lambda: len(running.worker_pids("EngineService")) == 2, 30.0, "two engines")
        yield running


@pytest.fixture
def stats(redis: RedisProcess, tiny_directory: ModelDirectory) -> Callable[[], GateStats]:
    gate = WorkerGate(redis.url, served_pool(tiny_directory), GateSettings(), "observer")
    return gate.stats


def load(server: RunningServer, name: str, strike: Callable[[], None]) -> list[Heard]:
    """Sends all requests, and strikes once some are answered."""
    answered = threading.Semaphore(0)

    def ask(number: int) -> Heard:
        candidates = [{"id": str(slot), "text": f"Job {number} {slot}"} for slot in range(4)]
        body = {"context": f"{name} {number % 20}", "candidates": candidates, "deadline_ms": 60_000}
        try:
            response = client.post("/v1/rank", json=body)
        except httpx.TransportError:
            return Heard(0)
        finally:
            answered.release()
        if response.status_code != 200:
            return Heard(response.status_code)
        return Heard(200, response.json()["usage"]["extend_tokens"])

    with server.client() as client, ThreadPoolExecutor(CONCURRENT) as pool:
        heard = [pool.submit(ask, number) for number in range(REQUESTS)]
        for _ in range(KILL_AFTER):
            answered.acquire()
        strike()
        return [future.result() for future in heard]


def settled(stats: Callable[[], GateStats]) -> int:
    """Charges so far, once nothing waits any more; what was computed unreserved counts too."""
    wait_until(lambda: stats().queued_jobs + stats().leased_jobs == 0, 30.0, "an empty pool")
    return stats().service + stats().uncharged


def test_killed_engine_costs_no_caller_its_answer_and_nobody_a_second_charge(
    server: RunningServer, stats: Callable[[], GateStats]
) -> None:
    victim = server.worker_pids("EngineService")[0]
    before = settled(stats)
    heard = load(server, "engine", lambda: os.kill(victim, signal.SIGKILL))
    assert [one.status for one in heard] == [200] * REQUESTS
    assert settled(stats) - before == sum(one.extend_tokens for one in heard)


def test_killed_api_process_charges_at_most_what_was_asked(
    server: RunningServer, stats: Callable[[], GateStats]
) -> None:
    (victim,) = server.worker_pids("RankingService")
    before = settled(stats)
    heard = load(server, "api", lambda: os.kill(victim, signal.SIGKILL))
    assert {one.status for one in heard} <= {0, 200, 503}
    wait_until(server.ready, 30.0, "another API process")
    assert_charged_once(heard, settled(stats) - before)


def test_killed_redis_keeps_what_it_acknowledged(
    server: RunningServer, redis: RedisProcess, stats: Callable[[], GateStats]
) -> None:
    def strike() -> None:
        redis.stop()
        redis.start()

    before = settled(stats)
    heard = load(server, "redis", strike)
    assert {one.status for one in heard} <= {200, 503}
    wait_until(server.ready, 30.0, "the engines")
    assert_charged_once(heard, settled(stats) - before)


def assert_charged_once(heard: list[Heard], charged: int) -> None:
    """Answers were charged as they said; an error's job may have been scored for nobody."""
    answered = [one.extend_tokens for one in heard if one.status == 200]
    unanswered = len(heard) - len(answered)
    assert sum(answered) <= charged <= sum(answered) + unanswered * max(answered)
    assert len(answered) >= KILL_AFTER
