"""The kernels with the Triton that is installed and with another. Knows no kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
OTHER = ROOT / ".triton-3.6"
KEPT = ROOT / "kernels/results/cpu"
needs_the_other = pytest.mark.skipif(
    not (OTHER / ".installed").exists(), reason="`make triton-env` installs the other Triton"
)

pytestmark = pytest.mark.long


def run(*arguments: str, release: Path | None, interpret: str = "1") -> str:
    """What a process prints that finds `release` before the installed Triton, if one is given."""
    paths = [str(path) for path in (release, ROOT) if path]
    ours = {"TRITON_INTERPRET": interpret, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | ours, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def outcome(rows: list[dict[str, Any]]) -> dict[tuple[str, ...], bool]:
    return {(row["triton"], row["op"], row["backend"], row["dtype"]): row["ok"] for row in rows}


@pytest.mark.parametrize(
    ("release", "kept"),
    [
        pytest.param(None, "selfcheck.jsonl", id="installed"),
        pytest.param(OTHER, "selfcheck-triton-3.6.jsonl", id="other", marks=needs_the_other),
    ],
)
def test_every_operation_is_right_as_the_table_of_releases_says(
    release: Path | None, kept: str
) -> None:
    rows = json_lines(run("-m", "kernels.selfcheck", "--json", "-", release=release))
    told = json_lines((KEPT / kept).read_text("utf-8"))
    hint = "keep it: python -m kernels.selfcheck --json kernels/results/cpu/... of that Triton"
    assert outcome(rows) == outcome(told), hint


@needs_the_other
def test_the_other_release_passes_the_tests_of_interpreted_kernels() -> None:
    tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/kernels"]
    run(*tests, "-m", "not long and not gpu", "-k", "triton", release=OTHER)


@needs_the_other
def test_the_other_release_compiles_every_kernel(tmp_path: Path) -> None:
    rows = json_lines(run("-m", "kernels.aot", "90", "--json", "-", release=OTHER, interpret="0"))
    assert [row for row in rows if row["problem"]] == []
