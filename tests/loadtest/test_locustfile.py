"""The load test fails when it should: no server, a server that lies. Knows no real one."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from loadtest import report

ROOT = Path(__file__).parents[2]


class Liar(BaseHTTPRequestHandler):
    """Answers every slate with the right shape and one candidate too few."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps(answer_without_the_last(request)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def answer_without_the_last(request: dict[str, Any]) -> dict[str, Any]:
    rows = [
        {"id": item["id"], "index": index, "score": 0.5, "status": "ok"}
        for index, item in enumerate(request["candidates"][:-1])
    ]
    return {"results": rows}


@pytest.fixture
def liar() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Liar) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def run_locust(host: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless"]
    users = ["-u", "2", "-r", "2", "-t", "2s", "--host", host, "--only-summary"]
    return subprocess.run(
        [*command, *users, *options], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_a_wrong_answer_fails_the_run(liar: str) -> None:
    run = run_locust(liar)
    assert run.returncode != 0
    assert "23 results, expected 24" in run.stdout + run.stderr


def test_a_run_keeps_its_figures_with_the_commit(liar: str, tmp_path: Path) -> None:
    run_locust(liar, "--kept", str(tmp_path / "kept.json"))
    kept = json.loads((tmp_path / "kept.json").read_text(encoding="utf-8"))
    assert kept["commit"]
    assert (kept["users"], kept["run_time"]) == (2, 2)
    [(_, figure, _), *_] = report.load_rows(report.rows_of(kept))
    assert float(figure.partition(" ")[0]) > 0


def test_no_server_fails_the_run() -> None:
    run = run_locust("http://127.0.0.1:9")
    assert run.returncode != 0


def test_a_run_that_asked_nothing_fails() -> None:
    assert run_locust("http://127.0.0.1:9", "-u", "0").returncode != 0
