"""The benchmark's choice of rows, its processes and its columns. Times nothing that counts."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kernels.bench.choice import chosen_rows
from kernels.bench.measurement import Record
from kernels.bench.plan import Row, plan
from kernels.bench.roofline import Roofline
from kernels.bench.worker_pool import Job, WorkerPool, wait
from kernels.catalogue.shapes import TINY
from kernels.catalogue.table import named
from kernels.kept.figures import COPY
from kernels.kept.records import read_csv

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ROOT = Path(__file__).parents[3]
BEST = Roofline(1e9, 1e9)


def options(**changes: object) -> argparse.Namespace:
    return argparse.Namespace(**{"ops": None, "rows": ["*"], "missing": None} | changes)


def labels(**changes: object) -> list[str]:
    rows = chosen_rows(options(**changes), CUDA)
    return [f"{row.name} {row.mode} {row.model_names} {row.tokens}" for row in rows]


def test_rows_are_chosen_by_operation_and_come_in_the_order_of_patterns() -> None:
    found = labels(ops=["layer_norm"], rows=["* forward * 256", "* forward Qwen3-0.6B 8192"])
    assert found == [
        "layer_norm forward Qwen3-0.6B 256",
        "layer_norm forward Qwen3-1.7B, Llama-3.2-1B 256",
        "layer_norm forward Qwen3-0.6B 8192",
    ]
    assert "score_head against the vocabulary Qwen3-0.6B 64" in labels()


def test_rows_that_a_file_holds_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "kept.csv"
    path.write_text("op,mode,model,tokens\nlayer_norm,forward,Qwen3-0.6B,8192\n")
    whole, rest = labels(ops=["layer_norm"]), labels(ops=["layer_norm"], missing=path)
    assert set(whole) - set(rest) == {"layer_norm forward Qwen3-0.6B 8192"}


def test_rows_of_code_changed_since_are_taken_again(tmp_path: Path) -> None:
    path, row = tmp_path / "kept.csv", "layer_norm,forward,Qwen3-0.6B,8192"
    path.write_text(f"op,mode,model,tokens,provider,launches\n{row},ours,another\n{row},eager,\n")
    again = labels(ops=["layer_norm"], missing=path)
    assert again == labels(ops=["layer_norm"])


def pool_job(*names: str) -> Job:
    rows: list[Row] = plan(named(names), (TINY,), (8,))
    return Job(rows, CPU, ["eager", "ours"], 1.0)


def providers(found: list[Record]) -> list[str]:
    return [row["provider"] for row in found]


def test_processes_measure_the_row_asked_for_and_die_alone() -> None:
    with WorkerPool(pool_job("swiglu"), 2) as pool:
        wait(pool, None, 60.0)
        pool.begin(BEST)
        backward, forward = pool.measure(1), pool.measure(0)
        assert [found[0]["mode"] for found in (backward, forward)] == [
            "forward+backward",
            "forward",
        ]
        assert providers(forward) == providers(backward) == ["eager", "ours", COPY]
        pool._processes[0].kill()
        pool._processes[0].join()
        with pytest.raises(RuntimeError, match="its process is dead"):
            pool.measure(0)
        assert providers(pool.measure(1)) == ["eager", "ours", COPY]


def test_the_benchmark_runs_and_keeps_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    command = [sys.executable, "-m", "kernels.bench", "--ops", "rms_norm", "--window", "1"]
    command += [
        "--rows",
        "* tiny *",
        "--device",
        "cpu",
        "--providers",
        "eager",
        "ours",
        "--csv",
        str(path),
    ]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert [(row["mode"], row["provider"]) for row in rows] == [
        (mode, provider)
        for mode in ("forward", "forward+backward")
        for provider in ("eager", "ours", COPY)
    ]
    assert [row["op"] for row in read_csv(path)] == ["rms_norm"] * 6
    wanted = "median_us p20_us p80_us peak_mb bytes flops share gpu driver torch triton commit date"
    assert rows[0].keys() >= set(wanted.split())
