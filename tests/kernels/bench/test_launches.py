"""What rows launch is told without a GPU, and figures of other code are marked. Times nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.kept import earlier
from kernels.kept.figures import Row, grouped
from kernels.kept.records import read_csv
from kernels.readme import pages as readme
from kernels.readme import reasons
from kernels.readme.report import bench_table, earlier_table, gemm_table

ROOT = Path(__file__).parents[3]
FOLDERS = readme.measured_folders()
KEY = ("rms_norm", "forward", "Qwen3-0.6B", "8192", "ours")

PROBE = """
from kernels.bench import launches
from kernels.base.dispatch import jit, tl

@jit
def helper(x):
    return x + {added}

@jit
def kernel(x_ptr, n, N: tl.constexpr):
    "{told}"
    tl.store(x_ptr, helper(n))  # {told}

def launched(n, size, warps):
    with launches.recorded() as found:
        kernel[(n,)](None, n, N=size, num_warps=warps)
    return launches.digest_of(found)

digests = [launched(3, 4, 4), launched(5, 4, 4), launched(3, 8, 4), launched(3, 4, 8)]
"""
PROBES = {"first": (1, "one"), "retold": (1, "another comment"), "changed": (2, "one")}


def run_apart(*arguments: str, path: Path = ROOT) -> str:
    # A process of its own: this one interprets its kernels, and launches nothing.
    ours = {"TRITON_INTERPRET": "0", "PYTHONPATH": f"{ROOT}{os.pathsep}{path}"}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, env=os.environ | ours, capture_output=True, text=True, check=True
    ).stdout


def test_a_digest_is_of_code_grid_sizes_and_warps_and_of_no_comment(tmp_path: Path) -> None:
    for name, (added, told) in PROBES.items():
        source = PROBE.replace("{added}", str(added)).replace("{told}", told)
        (tmp_path / f"{name}.py").write_text(source, "utf-8")
    told = f"import json, {', '.join(PROBES)}\n"
    told += f"print(json.dumps([m.digests for m in ({', '.join(PROBES)})]))"
    first, retold, changed = json.loads(run_apart("-c", told, path=tmp_path))
    assert len(set(first)) == 4
    assert retold == first
    assert not set(changed) & set(first)


@pytest.mark.long
def test_what_is_launched_now_is_kept(tmp_path: Path) -> None:
    run_apart("-m", "kernels.bench.launches", "--csv", str(tmp_path / "now.csv"))
    now, kept = read_csv(tmp_path / "now.csv"), read_csv(earlier.LAUNCHES)
    assert now == kept, "run python -m kernels.bench.launches, then python -m kernels.readme"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_kept_figure_of_ours_says_what_it_launched(folder: Path) -> None:
    groups = grouped(read_csv(folder / "bench.csv")).values()
    ours = [row for group in groups for row in group.values() if row["provider"][:4] == "ours"]
    assert ours
    assert [row for row in ours if not row[earlier.DIGEST]] == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_figure_of_earlier_code_says_what_changed(folder: Path) -> None:
    rows = earlier.earlier_rows(read_csv(folder / "bench.csv"))
    unknown = [row["op"] for row in rows if reasons.reason_of_change(row) == reasons.UNKNOWN]
    assert unknown == []


def row(digest: str, provider: str = "ours", **changes: str) -> Row:
    named = dict(zip(earlier.ROW_COLUMNS, (*KEY[:4], provider), strict=True))
    return named | {"median_us": "5", "commit": "a", earlier.DIGEST: digest} | changes


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [(*KEY[:4], provider) for provider in ("ours", "ours int8")]
    monkeypatch.setattr(earlier, "launched_now", lambda: dict.fromkeys(keys, "new"))


@pytest.mark.usefixtures("known")
def test_a_figure_of_other_launches_is_marked_in_every_table() -> None:
    assert not earlier.is_earlier(row("new"))
    assert not earlier.is_earlier(row("", provider="eager"))
    assert all(map(earlier.is_earlier, (row("old"), row(""), row("new", tokens="7"))))
    rows = [row("old"), row("", provider="eager")]
    assert f"| 5{earlier.MARK} |" in bench_table(rows)
    products = [row("old", provider="ours int8"), row("", provider="bf16")]
    assert f"| 5{earlier.MARK} |" in gemm_table(products)
    assert "| rms_norm | ours | Qwen3-0.6B: 8192 | a |" in earlier_table(rows)
    assert earlier.MARK not in bench_table([row("new"), row("", provider="eager")])
