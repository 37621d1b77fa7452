"""What clients see while Redis or the engine is away, and that service resumes by itself."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from loadtest.redis_process import RedisProcess
from models.directory import ModelDirectory
from service.bodies.schemas import ErrorEnvelope, QueueAnswer
from service.gate.gate import WorkerGate
from service.gate.settings import GateSettings
from tests.e2e.server import RunningServer, served_pool, wait_until

BODY = {"context": "Nurse", "candidates": [{"id": "a", "text": "Job"}]}


def rank(server: RunningServer, **options: Any) -> httpx.Response:
    with server.client() as client:
        return client.post("/v1/rank", json=BODY | options)


def refusal(response: httpx.Response) -> tuple[int, str]:
    error = ErrorEnvelope.model_validate_json(response.content).error
    if response.status_code in (429, 503):
        assert error.retry_after_ms is not None
        assert int(response.headers["retry-after"]) * 1000 >= error.retry_after_ms
    return response.status_code, error.code


@pytest.fixture
def queued(external_redis: RedisProcess, tiny_directory: ModelDirectory) -> Callable[[], int]:
    """Counts the jobs that wait for an engine."""
    gate = WorkerGate(external_redis.url, served_pool(tiny_directory), GateSettings(), "observer")
    return lambda: gate.stats().queued_jobs


def serves(server: RunningServer) -> bool:
    return rank(server).status_code == 200


@contextmanager
def frozen_engine(server: RunningServer) -> Iterator[None]:
    (engine,) = server.worker_pids("EngineService")
    os.kill(engine, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(engine, signal.SIGCONT)
        wait_until(lambda: serves(server), 20.0, "an answer")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_redis_away_is_a_quick_503_and_then_service_resumes(
    fragile: RunningServer, external_redis: RedisProcess, how: signal.Signals
) -> None:
    assert serves(fragile)
    external_redis.signal(how)
    started = time.monotonic()
    assert refusal(rank(fragile)) == (503, "gate_unavailable")
    waited = time.monotonic() - started
    assert not fragile.ready()
    if how is signal.SIGSTOP:
        external_redis.signal(signal.SIGCONT)
    else:
        external_redis.start()
    wait_until(lambda: fragile.ready() and serves(fragile), 20.0, "an answer")
    # The promise is one second; the other second is for a machine that runs other tests.
    assert waited < 2.0


def test_request_in_flight_fails_when_redis_goes(
    fragile: RunningServer, external_redis: RedisProcess, queued: Callable[[], int]
) -> None:
    with ThreadPoolExecutor() as pool, frozen_engine(fragile):
        waiting = pool.submit(rank, fragile)
        wait_until(lambda: queued() == 1, 5.0, "the job in the queue")
        external_redis.stop()
        assert refusal(waiting.result(timeout=5.0)) == (503, "gate_unavailable")
        external_redis.start()


def test_requests_that_redis_forgot_do_not_wait_for_their_deadlines(
    fragile: RunningServer, external_redis: RedisProcess, queued: Callable[[], int]
) -> None:
    with ThreadPoolExecutor() as pool:
        with frozen_engine(fragile):
            waiting = [pool.submit(rank, fragile, deadline_ms=60_000) for _ in range(4)]
            wait_until(lambda: queued() == 4, 5.0, "the jobs in the queue")
            external_redis.forget()
        outcomes = {refusal(future.result()) for future in waiting}
    # Absent is what the engine seems to be to a look before it is heard of again.
    assert outcomes <= {(503, "gate_unavailable"), (503, "engine_absent")}


def test_deadline_passes_while_the_engine_is_silent(fragile: RunningServer) -> None:
    with frozen_engine(fragile):
        response = rank(fragile, deadline_ms=200)
    assert refusal(response) == (504, "deadline_exceeded")
    assert "200" in response.json()["error"]["message"]


def test_tenant_above_its_queue_is_throttled(fragile: RunningServer) -> None:
    with frozen_engine(fragile), ThreadPoolExecutor(12) as pool:
        waiting = [pool.submit(rank, fragile, deadline_ms=3000) for _ in range(12)]
        outcomes = [refusal(future.result()) for future in waiting]
    assert set(outcomes) == {(504, "deadline_exceeded"), (429, "tenant_throttled")}
    assert 8 <= outcomes.count((504, "deadline_exceeded")) <= 9


def test_a_waiting_request_is_explained_to_its_tenant(
    fragile: RunningServer, queued: Callable[[], int]
) -> None:
    def ask(request_id: str) -> httpx.Response:
        return httpx.get(f"{fragile.url}/v1/queue/{request_id}")

    headers = {"x-request-id": "mine-1"}
    with ThreadPoolExecutor() as pool, fragile.client() as client, frozen_engine(fragile):
        waiting = pool.submit(
            client.post, "/v1/rank", json=BODY | {"deadline_ms": 5000}, headers=headers
        )
        wait_until(lambda: queued() == 1, 5.0, "the job in the queue")
        answer = QueueAnswer.model_validate_json(ask("mine-1").content)
        assert refusal(ask("mine-2")) == (404, "request_not_found")
        assert [(job.state, job.levels[0].node) for job in answer.jobs] == [("queued", "demo")]
        assert answer.jobs[0].bound_tokens > 0
    assert waiting.result().status_code == 200
    assert refusal(ask("mine-1")) == (404, "request_not_found")


def test_client_that_hangs_up_leaves_nothing_queued(
    fragile: RunningServer, queued: Callable[[], int]
) -> None:
    address = urlsplit(fragile.url)
    content = json.dumps(BODY).encode()
    head = f"POST /v1/rank HTTP/1.1\r\nhost: test\r\ncontent-length: {len(content)}\r\n\r\n"
    with frozen_engine(fragile):
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.sendall(head.encode() + content)
            wait_until(lambda: queued() == 1, 5.0, "the job in the queue")
        wait_until(lambda: queued() == 0, 5.0, "an empty queue")


@pytest.mark.long  # BentoML looks for dead workers every 10 s
def test_killed_engine_is_replaced_and_its_queue_served(fragile: RunningServer) -> None:
    (engine,) = fragile.worker_pids("EngineService")
    with ThreadPoolExecutor() as pool:
        os.kill(engine, signal.SIGSTOP)
        waiting: Future[httpx.Response] = pool.submit(rank, fragile, deadline_ms=60_000)
        os.kill(engine, signal.SIGKILL)
        assert waiting.result().status_code == 200
    assert fragile.worker_pids("EngineService") != [engine]
