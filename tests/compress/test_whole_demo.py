"""The shipped models' recipes in small: each one job from teacher to end, also after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from compress.encoders.pair_teacher import EncoderTeacher
from compress.pipeline import main
from compress.recipes.recipe import Recipe
from compress.recipes.records import MEASURED_NAME, read_records
from models.checkpoint import load_model_directory
from tests.compress.small_demo import DEMO, small_demo, small_reason
from tests.compress.small_recipe import ROOT

STAGES = ["encoder_teacher", "imitate", "prune", "distill", "quantize", "calibrate"]


def _killed(recipe: Path, out: Path, stage: str, moment: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.compress.killed"]
    return subprocess.run(
        [*command, str(recipe), str(out), stage, str(moment)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_whole_job_ends_alike_when_its_teacher_and_student_were_killed(
    tmp_path: Path, small_data: Path
) -> None:
    recipe = small_demo(tmp_path, small_data)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    whole = _killed(recipe, straight, "", 0)
    assert whole.returncode == 0, whole.stderr
    moments = json.loads(whole.stdout.splitlines()[-1])
    for stage, moment in (("teacher", moments["teacher"] // 2), ("imitate", 7)):
        died = _killed(recipe, killed, stage, moment)
        assert died.returncode == -signal.SIGKILL, died.stderr
    assert EncoderTeacher.load(tmp_path / "killed.work" / "0-teacher").weights
    ended = _killed(recipe, killed, "", 0)
    assert ended.returncode == 0, ended.stderr
    one, other = (load_model_directory(path) for path in (straight, killed))
    assert one.digest == other.digest
    assert [entry["stage"] for entry in one.card.lineage["stages"]] == STAGES
    assert str(tmp_path) not in json.dumps(one.card.lineage)
    assert sum(layer["neurons"] for layer in one.card.metrics["prune"]["kept"]) == 3 * 448
    assert (one.card.name, one.card.version) == ("fairslate-demo", "4")
    assert one.config.quantization is not None
    records = read_records(straight / MEASURED_NAME)
    names = ["teacher", "imitate", "prune", "recover", "quantize", "calibrate"]
    assert [record.name for record in records] == names
    assert records[0].parameters > 0
    assert [len(record.losses) for record in records[:2]] == [3, 3]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_reasoner_ends_alike_when_teacher_and_student_were_killed(
    tmp_path: Path, small_data: Path
) -> None:
    recipe = small_reason(tmp_path, small_data)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    whole = _killed(recipe, straight, "", 0)
    assert whole.returncode == 0, whole.stderr
    moments = json.loads(whole.stdout.splitlines()[-1])
    for stage in ("large_taught", "small_taught"):
        died = _killed(recipe, killed, stage, moments[stage] // 2)
        assert died.returncode == -signal.SIGKILL, died.stderr
    ended = _killed(recipe, killed, "", 0)
    assert ended.returncode == 0, ended.stderr
    one, other = (load_model_directory(path) for path in (straight, killed))
    assert one.digest == other.digest
    _, entry = one.card.lineage["stages"]
    phases = entry["options"]["phases"]
    assert [phase["soft_share"] for phase in phases] == [0.0, 0.9, 0.9]
    assert [phase["prefix_source"] for phase in phases] == ["data", "data", "student"]
    records = {record.name: record for record in read_records(straight / MEASURED_NAME)}
    assert len(entry["teachers"]) == 1
    assert records["small_taught"].metrics["grounded"] == 1
    assert len(records["small_taught"].losses) == 6


@pytest.mark.long
def test_a_teacher_below_its_gate_ends_the_job(
    tmp_path: Path,
    small_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe, out = small_demo(tmp_path, small_data, gate="gauc >= 1.1"), tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["pipeline", str(recipe), "--out", str(out)])
    assert main() == 1
    assert "teacher: valid gauc is" in capsys.readouterr().err
    assert not out.exists()
    assert not list(tmp_path.glob("out.work/[0-9]-teacher"))


def test_all_of_it_is_priced_before_it_starts(
    tmp_path: Path,
    small_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = small_demo(tmp_path, small_data)
    arguments = ["pipeline", str(recipe), "--out", str(tmp_path / "out"), "--dry-run"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert main() == 0
    _, *rows, total = capsys.readouterr().out.splitlines()
    assert [row.split()[1] for row in rows] == list(_kinds(recipe))
    steps = [int(row.split()[2]) for row in rows]
    teacher, student = DEMO["encoder_teacher"], DEMO["imitate"]
    assert steps[0] == teacher["tower_steps"] + teacher["joint_steps"]
    assert steps[1] == 1 + student["bag_steps"] + student["steps"]  # and the teacher's labels
    assert "?" not in "".join(rows)
    assert "threads of this CPU" in total
    assert not (tmp_path / "out.work").exists()


def _kinds(recipe: Path) -> list[str]:
    return [entry.stage for _, entry in Recipe.load(recipe).entries()]
