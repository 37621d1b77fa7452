"""Kills at random moments of every stage, and the same recipe in two processes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from compress.recipes.records import MEASURED_NAME, read_records
from models.checkpoint import load_decoder, load_model_directory
from tests.compress.small_recipe import ROOT, TRAIN, every_stage, stages, write_recipe

KILLS = 1  # of each stage: every start of the pipeline takes seconds


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_run_killed_in_every_stage_ends_with_bit_identical_files(
    tmp_path: Path, small_data: Path
) -> None:
    recipe = str(write_recipe(tmp_path, small_data, every_stage()))
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    whole = _run("tests.compress.killed", recipe, str(straight), "", "0")
    assert whole.returncode == 0, whole.stderr
    dice = random.Random(5)
    for stage, moments in json.loads(whole.stdout.splitlines()[-1]).items():
        for _ in range(KILLS):
            moment = str(dice.randint(1, moments))
            died = _run("tests.compress.killed", recipe, str(killed), stage, moment)
            assert died.returncode == -signal.SIGKILL, (stage, moment, died.stderr)
            assert not killed.exists()
            _refuse_half_written(killed)
    ended = _run("compress.pipeline", recipe, "--out", str(killed))
    assert ended.returncode == 0, ended.stderr
    first, second = (load_model_directory(path) for path in (straight, killed))
    assert first.card.files == second.card.files
    assert first.digest == second.digest


def _refuse_half_written(out: Path) -> None:
    """Whatever has a finished stage's name loads."""
    for path in out.with_name(out.name + ".work").glob("[0-9]-*"):
        if path.is_dir() and path.suffix != ".state":
            load_model_directory(path)


@pytest.mark.long
def test_two_processes_train_as_one_also_after_a_kill(tmp_path: Path, small_data: Path) -> None:
    recipe = str(write_recipe(tmp_path, small_data, stages(0.3)))
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert _run("compress.pipeline", recipe, "--out", str(alone)).returncode == 0
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    died = _run(*torchrun, "tests.compress.killed", recipe, str(together), "train", "4")
    assert died.returncode != 0
    assert (together.with_name("together.work") / "1-train.state" / "train.pt").exists()
    ended = _run(*torchrun, "compress.pipeline", recipe, "--out", str(together))
    assert ended.returncode == 0, ended.stderr
    one, two = (read_records(path / MEASURED_NAME) for path in (alone, together))
    for first, second in zip(one, two, strict=True):
        assert second.losses == pytest.approx(first.losses, abs=1e-5)
    assert len(one[1].losses) == TRAIN["steps"]
    weights, shards = (load_decoder(load_model_directory(path)) for path in (alone, together))
    for name, weight in weights.state_dict().items():
        torch.testing.assert_close(shards.state_dict()[name], weight, rtol=0, atol=1e-3)
    assert not together.with_name("together.work").exists()


@pytest.mark.long
def test_nothing_is_cleared_up_while_another_process_still_does(
    tmp_path: Path, small_data: Path
) -> None:
    recipe, out = str(write_recipe(tmp_path, small_data, stages(0.3))), tmp_path / "out"
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    ended = _run(*torchrun, "tests.compress.late", recipe, str(out))
    assert ended.returncode == 0, ended.stderr
    assert not out.with_name("out.work").exists()
