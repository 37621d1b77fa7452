"""What the README and the greeting tell a newcomer to paste works. Knows nothing of rankings."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx

from service.hello import REQUEST
from tests.e2e.server import ROOT, RunningServer, free_port, wait_until


def test_the_greeting_is_the_readmes_request(client: httpx.Client) -> None:
    assert REQUEST.format(port=3000, key="") in (ROOT / "README.md").read_text(encoding="utf-8")
    body = re.search(r"-d '(.*)'", REQUEST.format(port=3000, key=""), re.DOTALL)
    assert body is not None
    answer = client.post("/v1/rank", json=json.loads(body[1]))
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["results"]) == 3


def test_the_greeting_comes_once_the_server_is_ready(server: RunningServer) -> None:
    port = httpx.URL(server.url).port
    command = [sys.executable, "-m", "service.hello", str(port), str(os.getpid())]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=20)
    assert REQUEST.format(port=port, key="") in run.stdout


def test_the_greeting_ends_with_its_parent() -> None:
    script = f'"{sys.executable}" -m service.hello {free_port()} $$ >/dev/null & echo $!'
    shell = subprocess.run(["sh", "-c", script], cwd=ROOT, stdout=subprocess.PIPE, check=False)
    orphan = Path(f"/proc/{int(shell.stdout.split()[0])}")
    wait_until(lambda: not orphan.exists(), 10.0, "the end of the greeting")


def test_a_taken_port_is_refused_with_another_one(server: RunningServer) -> None:
    port = httpx.URL(server.url).port
    assert port is not None
    command = [sys.executable, "-m", "service.hello", str(port)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=20)
    assert run.returncode == 1
    assert f"pass PORT={port + 1}" in run.stderr
    command[-1] = str(free_port())
    subprocess.run(command, cwd=ROOT, check=True, timeout=20)
