"""The load test against a real server, as the README runs it. Knows nothing of single answers."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.e2e.server import ROOT, RunningServer


def test_load_passes_on_a_real_server(server: RunningServer, tenant_keys: dict[str, str]) -> None:
    command = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless"]
    options = ["-u", "8", "-r", "8", "-t", "10s", "--host", server.url, "--only-summary"]
    keys = ["--api-keys", ",".join(tenant_keys.values()), "--reasons", "0.3"]
    run = subprocess.run(
        [*command, *options, *keys], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    total = re.search(r"Aggregated\s+(\d+)\s+0\(0.00%\)", run.stdout + run.stderr)
    assert total is not None, run.stdout + run.stderr
    assert int(total[1]) >= 20
    reasons = re.search(r"/v1/reason\s+(\d+)\s+0\(0.00%\)", run.stdout + run.stderr)
    assert reasons is not None, run.stdout + run.stderr
