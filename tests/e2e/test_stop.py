"""A server that is told to stop answers what it was sent, then leaves its pool in order."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from loadtest.redis_process import RedisProcess
from models.directory import ModelDirectory
from service.base.config import Settings
from service.gate.embedded import EmbeddedRedis
from service.gate.gate import WorkerGate
from service.gate.job import GateStats
from tests.e2e.server import RunningServer, running_server, served_pool, wait_until

pytestmark = pytest.mark.long

SLATES = 60
# One slate a batch, and all of them take the engine far longer than a server needs to hang up.
ONE_BY_ONE = {"max_batch_jobs": "1", "token_budget": "100000", "default_deadline_ms": "30000"}
PATIENT = ONE_BY_ONE | {"drain_ms": "30000"}
CANDIDATES = [{"id": str(number), "text": f"Job {number} at a desk"} for number in range(400)]


@contextmanager
def observer(url: str, directory: ModelDirectory) -> Iterator[WorkerGate]:
    """Looks at the pool of a server of this model."""
    gate = WorkerGate(url, served_pool(directory), Settings().gate, "observer")
    try:
        yield gate
    finally:
        gate.close()


def stats_left_in(state: Path, directory: ModelDirectory) -> GateStats:
    """The pool as the embedded Redis of a server that has ended kept it."""
    redis = EmbeddedRedis(state)
    with observer(redis.start(), directory) as gate:
        stats = gate.stats()
    redis.stop()
    return stats


@contextmanager
def slates_sent(
    server: RunningServer, gate: WorkerGate, slates: int = SLATES
) -> Iterator[list[Future[httpx.Response]]]:
    """The answers to come of so many; the engine stands still, and they wait, while it lasts."""
    [engine] = server.worker_pids("EngineService")
    os.kill(engine, signal.SIGSTOP)
    with server.client() as client, ThreadPoolExecutor(slates) as clients:
        bodies = [{"context": f"Nurse {one}", "candidates": CANDIDATES} for one in range(slates)]
        try:
            sent = [clients.submit(client.post, "/v1/rank", json=body) for body in bodies]
            wait_until(lambda: in_pool(gate) == slates, 30.0, "all slates in the pool")
            yield sent
        finally:
            os.kill(engine, signal.SIGCONT)


def in_pool(gate: WorkerGate) -> int:
    stats = gate.stats()
    return stats.queued_jobs + stats.leased_jobs


def stopping(server: RunningServer) -> bool:
    """Whether a probe is told so."""
    return "server_stopping" in httpx.get(f"{server.url}/readyz", timeout=5.0).text


def ask_without_end(client: socket.socket) -> None:
    """Reads none of the answers."""
    while True:
        client.sendall(b"GET /docs.json HTTP/1.1\r\nHost: x\r\n\r\n")


def refuses(server: RunningServer) -> bool:
    """Whether who connects now is told to go elsewhere."""
    with server.client() as client:
        answer = client.post("/v1/rank", json={"context": "Nurse", "candidates": CANDIDATES})
        probe = client.get("/readyz")
    return (
        (answer.status_code, probe.status_code) == (503, 503)
        and answer.json()["error"]["code"] == "server_stopping"
        and "retry-after" in answer.headers
    )


def test_what_waits_in_its_own_redis_is_answered_before_all_end(
    tmp_path: Path, tiny_model_dir: Path, tiny_directory: ModelDirectory
) -> None:
    state = tmp_path / "redis"
    with (
        running_server(tmp_path, model=str(tiny_model_dir), **PATIENT) as server,
        observer(EmbeddedRedis(state).url, tiny_directory) as gate,
    ):
        with slates_sent(server, gate) as sent:
            server.process.terminate()
            wait_until(lambda: stopping(server), 5.0, "word of the stop")
            assert refuses(server)
        assert [answer.result().status_code for answer in sent] == [200] * SLATES
        assert server.process.wait(timeout=60) is not None
    stats = stats_left_in(state, tiny_directory)
    assert stats.now_ms > 0
    assert stats.workers == {}
    assert stats.queued_jobs + stats.leased_jobs == 0


def test_what_waits_in_a_shared_redis_is_answered_by_the_lone_engine_before_it_leaves(
    tmp_path: Path,
    tiny_model_dir: Path,
    tiny_directory: ModelDirectory,
    external_redis: RedisProcess,
) -> None:
    settings = {"model": str(tiny_model_dir), "redis_url": external_redis.url, **PATIENT}
    with observer(external_redis.url, tiny_directory) as gate:
        with running_server(tmp_path, **settings) as server:
            with slates_sent(server, gate) as sent:
                server.process.terminate()
            assert [answer.result().status_code for answer in sent] == [200] * SLATES
            assert server.process.wait(timeout=60) is not None
        assert gate.stats().workers == {}


def test_whom_the_engine_cannot_answer_in_time_it_tells_to_retry(
    tmp_path: Path, tiny_model_dir: Path, tiny_directory: ModelDirectory
) -> None:
    with (
        running_server(tmp_path, model=str(tiny_model_dir), drain_ms="0", **ONE_BY_ONE) as server,
        observer(EmbeddedRedis(tmp_path / "redis").url, tiny_directory) as gate,
    ):
        with slates_sent(server, gate) as sent:
            server.process.terminate()
        answers = [answer.result() for answer in sent]
        assert server.process.wait(timeout=30) is not None
    refused = [answer for answer in answers if answer.status_code != 200]
    assert refused
    assert {answer.status_code for answer in refused} == {503}
    assert {answer.json()["error"]["code"] for answer in refused} == {"engine_absent"}
    assert all(answer.headers["retry-after"] for answer in refused)


def test_a_client_that_reads_nothing_holds_no_stop(tmp_path: Path, tiny_model_dir: Path) -> None:
    with (
        running_server(tmp_path, model=str(tiny_model_dir), drain_ms="0") as server,
        socket.create_connection(("127.0.0.1", httpx.URL(server.url).port or 0)) as client,
    ):
        client.settimeout(5.0)
        with pytest.raises(TimeoutError):  # the server takes no more: it waits to be read
            ask_without_end(client)
        server.process.terminate()
        assert server.process.wait(timeout=30) is not None
