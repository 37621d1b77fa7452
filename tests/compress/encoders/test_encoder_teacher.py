"""The teacher's stage: what it writes, that it goes on where it stopped, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from compress.encoders import encoder_teacher
from compress.encoders.encoder_teacher import STAGE, EncoderTeacher, EncoderTeacherOptions
from compress.encoders.teacher_steps import TeacherSteps
from compress.stages.stage import RecipeError, StageInput
from tests.compress.small_encoders import write_encoder

SMALL = {"tower_steps": 2, "joint_steps": 2, "slates": 2, "candidates": 4, "worlds": 1}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"), layers=1)


def _stage(data: Path, out: Path) -> StageInput:
    return StageInput(None, data, out, out.with_name(out.name + ".work"), seed=1, threads=1)


def _run(data: Path, out: Path, encoder: Path, **options: object) -> EncoderTeacher:
    encoder_teacher.run(_stage(data, out), {"encoder": str(encoder), **SMALL, **options})
    return EncoderTeacher.load(out)


def test_it_writes_both_parts_and_their_lineage(
    small_data: Path, encoder: Path, tmp_path: Path
) -> None:
    teacher = _run(small_data, tmp_path / "t", encoder, joint_weight=0.75, checkpoint_every=1)
    assert teacher.weights == {"towers": 0.25, "joint": 0.75}
    (answer,) = teacher.label_log_odds(["headline welder"], [["weld steel", "teach pupils"]])
    assert answer.shape == (2,)
    content = json.loads((tmp_path / "t" / "teacher.json").read_text())
    (entry,) = content["lineage"]["stages"]
    assert entry["stage"] == "encoder_teacher"
    assert entry["options"]["joint_steps"] == 2
    assert str(encoder) not in json.dumps(content)


def test_a_part_without_steps_is_left_out(small_data: Path, encoder: Path, tmp_path: Path) -> None:
    teacher = _run(small_data, tmp_path / "t", encoder, tower_steps=0)
    assert teacher.weights == {"joint": 1.0}


def test_a_killed_run_goes_on_bit_for_bit(
    small_data: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    _run(small_data, whole, encoder, tower_steps=4, joint_steps=0, checkpoint_every=2)
    steps = TeacherSteps.batch

    def killed(self: object, part: str, step: int) -> object:
        if step == 3:
            raise KeyboardInterrupt
        return steps(self, part, step)  # type: ignore[arg-type]

    again = tmp_path / "again"
    monkeypatch.setattr(TeacherSteps, "batch", killed)
    with pytest.raises(KeyboardInterrupt):
        _run(small_data, again, encoder, tower_steps=4, joint_steps=0, checkpoint_every=2)
    assert not again.exists()
    monkeypatch.setattr(TeacherSteps, "batch", steps)
    _run(small_data, again, encoder, tower_steps=4, joint_steps=0, checkpoint_every=2)
    ours, theirs = (load_file(path / "towers.safetensors") for path in (whole, again))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_options_that_train_nothing_are_refused(encoder: Path) -> None:
    with pytest.raises(RecipeError, match="tower_steps"):
        EncoderTeacherOptions(str(encoder), tower_steps=0, joint_steps=0)
    with pytest.raises(RecipeError, match="joint_weight"):
        EncoderTeacherOptions(str(encoder), joint_weight=1.5)


def test_its_cost_is_known_before_it_starts(encoder: Path) -> None:
    assert STAGE.cost is not None
    one, two = (
        STAGE.cost(EncoderTeacherOptions(str(encoder), joint_steps=steps, tower_steps=5), None)
        for steps in (10, 20)
    )
    assert one.steps == 15
    assert one.operations < two.operations < 2 * one.operations
