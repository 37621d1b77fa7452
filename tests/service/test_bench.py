"""The lone tenant's benchmark, in a size that only shows that it works and names its commit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = {
    "service.bench": ["--slates", "4", "--rounds", "1"],
    "service.reason_bench": ["--members", "1", "--rounds", "1"],
}


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.parametrize("command", SMALL)
def test_what_a_benchmark_keeps_names_the_commit(command: str, tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    run = [sys.executable, "-m", command, *SMALL[command], "--json", str(kept)]
    subprocess.run(run, cwd=ROOT, check=True, capture_output=True)
    row = json.loads(kept.read_text(encoding="utf-8"))
    assert row["commit"]
    assert row["cores"]
    assert row.keys() & {"share", "reasons_per_s"}
