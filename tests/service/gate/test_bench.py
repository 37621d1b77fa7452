"""The gate's bench on a real redis-server, in a size that only shows that it works."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

FIGURES = {"commit", "cores", "python"}
FIGURES |= {"queued", "tenants", "claim_p50_ms", "claim_p99_ms", "admissions_per_s"}
FIGURES |= {"bytes_per_tenant", "redis_version", "slow_calls", "slowest_call_ms", "script_p99_ms"}


@pytest.mark.timeout(120)
def test_the_bench_prints_one_object_with_all_figures() -> None:
    command = [sys.executable, "-m", "service.gate.bench", "--json", "-", "--seconds", "0.1"]
    sizes = ["--queued", "200", "--tenants", "100", "--shapes", "2"]
    run = subprocess.run([*command, *sizes], capture_output=True, text=True, check=True)
    figures = json.loads(run.stdout)
    assert set(figures) >= FIGURES
    assert (figures["queued"], figures["tenants"]) == (200, 100)
    assert len(figures["rows"]) == 2
    assert all(row["admissions_per_s"] > 0 < row["claim_p50_ms"] for row in figures["rows"])
    for row in figures["rows"]:
        times = row["script_p99_ms"]
        assert times.keys() == {"submit", "claim", "settle"}
        assert all(0 < time < 1_000 for time in times.values())
    assert 50 < figures["bytes_per_tenant"] < 2_000
