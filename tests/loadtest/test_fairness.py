"""The generator sends what it says, and rows say what came back. The server is a stub."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from loadtest.fairness import WEIGHTS, measure_weights, quiet_row, run_for
from loadtest.openloop import Sample, Sender
from loadtest.serving import Server, descendants, digest, of_redis
from loadtest.traffic import Catalogue, Member

POSTINGS = {str(number): f"Posting {number}" for number in range(60)}
CATALOGUE = Catalogue(POSTINGS, {"11": [Member("Nurse", tuple(POSTINGS)[:24])]})


class Stub(BaseHTTPRequestHandler):
    """Serves weight 2 twice as much as weight 1, and refuses the tenant "full"."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[Counter[str]] = Counter()

    def do_POST(self) -> None:
        tenant = self.headers["authorization"].removeprefix("Bearer ")
        self.rfile.read(int(self.headers["content-length"]))
        self.asked[tenant] += 1
        usage = {"usage": {"extend_tokens": 10}}
        self._answer(429 if tenant == "full" else 200, json.dumps(usage).encode())

    def do_GET(self) -> None:
        self.asked["metrics"] += 1
        lines = [
            f'fairslate_tenant_service{{tenant="{name}"}} {100.0 * weight * self.asked["metrics"]}'
            for name, weight in WEIGHTS.items()
        ]
        self._answer(200, "\n".join(lines).encode())

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[Server]:
    Stub.asked.clear()
    stub = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    thread = threading.Thread(target=stub.serve_forever)
    thread.start()
    yield Server(stub.server_address[1])
    stub.shutdown()
    thread.join()
    stub.server_close()


def sending(server: Server, work: Callable[[Sender], Awaitable[list[Sample]]]) -> list[Sample]:
    async def run() -> list[Sample]:
        sender = Sender(server.url, CATALOGUE)
        try:
            return await work(sender)
        finally:
            sender.close()

    return asyncio.run(run())


def test_equal_seeds_send_at_equal_times(server: Server) -> None:
    async def two(sender: Sender) -> list[Sample]:
        streams = [sender.poisson(name, 200.0, 0.5, 7, 1000) for name in ("ada", "full")]
        return [sample for samples in await asyncio.gather(*streams) for sample in samples]

    samples = sending(server, two)
    ada = [sample for sample in samples if sample.tenant == "ada"]
    full = [sample for sample in samples if sample.tenant == "full"]
    assert len(ada) == len(full) == Stub.asked["ada"]
    assert 60 <= len(ada) <= 140, "100 expected"
    gap = full[0].due_s - ada[0].due_s
    assert [s.due_s + gap for s in ada] == pytest.approx([s.due_s for s in full])
    assert {(s.status, s.extend_tokens) for s in ada} == {(200, 10)}
    assert {(s.status, s.extend_tokens) for s in full} == {(429, 0)}


def test_a_busy_client_waits_for_each_answer(server: Server) -> None:
    samples = sending(server, lambda sender: run_for([sender.busy("ada", 1, 1000)], 0.3))
    assert len(samples) > 1
    ends = [sample.due_s + sample.latency_ms / 1000 for sample in samples]
    assert all(end <= later.due_s for end, later in zip(ends, samples[1:], strict=False))


def test_a_server_that_is_not_there_counts_as_an_error() -> None:
    samples = sending(Server(1), lambda sender: sender.poisson("ada", 50.0, 0.1, 1, 1000))
    assert {sample.status for sample in samples} == {0}


def test_latency_counts_from_when_the_slate_was_due(server: Server) -> None:
    async def late(sender: Sender) -> list[Sample]:
        sender.started -= 100.0
        return [await sender.send("ada", b"{}", 0.0)]

    (sample,) = sending(server, late)
    assert 100_000 <= sample.latency_ms < 200_000


def test_a_connection_that_the_server_dropped_is_not_used_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stub, "timeout", 0.05)
    samples = sending(server, lambda sender: sender.poisson("ada", 5.0, 2.0, 1, 1000))
    assert len(samples) > 3
    assert {sample.status for sample in samples} == {200}


def test_shares_are_taken_from_what_was_charged_in_between(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadtest.fairness.WARM_UP_SECONDS", 0.01)

    async def rows() -> list[float]:
        sender = Sender(server.url, CATALOGUE)
        found = await measure_weights(sender, server, 0.01)
        sender.close()
        return [row["of_its_share"] for row in found]

    assert asyncio.run(rows()) == pytest.approx([1.0] * 4)


def test_a_row_counts_errors_and_reads_percentiles() -> None:
    samples = [Sample("quiet", 0.0, float(number), 200, 5) for number in range(1, 100)]
    row = quiet_row("bulk", "dlpm", [*samples, Sample("quiet", 0.0, 9000.0, 504)], {200: 3})
    assert row["aggressor"] == {200: 3}
    assert (row["slates"], row["errors"], row["tokens"]) == (100, 1, 495)
    assert (row["p50_ms"], row["p99_ms"]) == (50.0, 99.0)


def test_a_process_is_among_its_descendants_and_keys_are_digests() -> None:
    assert descendants(1)[0] == 1
    assert len(digest("key")) == 64


def test_redis_is_found_by_its_folder_though_it_is_nobodys_child(tmp_path: Path) -> None:
    waiting = [sys.executable, "-c", "print(flush=True); input()"]
    ours = [*waiting, "redis-server", f"unixsocket:{tmp_path}/redis/redis.sock"]
    others = [*waiting, "redis-server", "unixsocket:/elsewhere/redis/redis.sock"]
    with (
        subprocess.Popen(ours, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as found,
        subprocess.Popen(others, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as ignored,
    ):
        for process in (found, ignored):  # the kernel shows no command line for a moment
            assert process.stdout is not None
            process.stdout.readline()
        assert of_redis(tmp_path) == [found.pid]
        for process in (found, ignored):
            process.communicate(b"\n")
