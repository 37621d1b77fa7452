"""The imitating student's stage: a served directory, told from whom; what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.data.requests import Request
from compress.data.worlds import Kind
from compress.encoders.encoder import load_encoder
from compress.encoders.pair_encoder import PairEncoder
from compress.encoders.pair_teacher import EncoderTeacher, save_teacher
from compress.measure.scorers import DirectoryScorer
from compress.stages import costs
from compress.stages.stage import RecipeError, Shape, StageInput
from compress.students import imitate
from compress.students.imitate_options import ImitateOptions
from compress.students.student_steps import StudentSteps
from compress.students.teacher_labels import TeacherLabels
from models.checkpoint import load_model_directory
from tests.compress.small_encoders import write_encoder

SMALL = {
    "common_words": 100,
    "minimum_count": 20,
    "labelled": 2,
    "bag_steps": 3,
    "steps": 3,
    "slates": 4,
    "candidates": 4,
    "plain_worlds": 1,
    "mixed_worlds": 1,
    "checkpoint_every": 1,
}


def _teacher(directory: Path, parts: tuple[str, ...]) -> Path:
    encoder = write_encoder(directory / "encoder", hidden=256, layers=1)
    torch.manual_seed(0)
    models = {part: PairEncoder(load_encoder(encoder), joint=part == "joint") for part in parts}
    weights = dict.fromkeys(parts, 1 / len(parts))
    lineage = {"lineage": {"stages": [{"stage": "encoder_teacher"}]}}
    save_teacher(directory / "teacher", encoder, models, weights, lineage)
    return directory / "teacher"


def _stage(data: Path, out: Path, teacher: Path | None) -> StageInput:
    work = out.with_name(out.name + ".work")
    return StageInput(None, data, out, work, seed=1, threads=1, teacher=teacher)


def test_it_writes_a_directory_that_is_served(small_data: Path, tmp_path: Path) -> None:
    teacher = _teacher(tmp_path, ("towers",))
    imitate.run(_stage(small_data, tmp_path / "out", teacher), {**SMALL, "layers": 4})
    directory = load_model_directory(tmp_path / "out")
    assert directory.config.num_hidden_layers == 4
    first, entry = directory.card.lineage["stages"]
    assert (first["stage"], entry["stage"]) == ("encoder_teacher", "imitate")
    assert entry["teacher"] == EncoderTeacher.load(teacher).digest
    request = Request("g", "Headline: welder.", ("weld steel", "teach pupils"), (4, 0))
    for prompt in ("member_to_jobs", "job_to_members"):
        (answers,) = DirectoryScorer(directory, prompt).raw_logits([request])
        assert answers[0] != answers[1]


@pytest.mark.long
def test_a_killed_run_goes_on_bit_for_bit_and_asks_nothing_twice(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"average": 0.9, "substituted_worlds": 1, "pooled_weight": 2.0, "token_weight": 0.3}
    teacher, options = _teacher(tmp_path, ("towers",)), {**SMALL, **more}
    imitate.run(_stage(small_data, tmp_path / "whole", teacher), options)
    full, asked = StudentSteps.full, []

    def killed(self: StudentSteps, step: int, token_dropout: float) -> object:
        if step == 2:
            raise KeyboardInterrupt
        return full(self, step, token_dropout)

    monkeypatch.setattr(StudentSteps, "full", killed)
    with pytest.raises(KeyboardInterrupt):
        imitate.run(_stage(small_data, tmp_path / "again", teacher), options)
    assert not (tmp_path / "again").exists()
    monkeypatch.setattr(StudentSteps, "full", full)
    monkeypatch.setattr(TeacherLabels, "_ask", lambda *_: asked.append(1))
    imitate.run(_stage(small_data, tmp_path / "again", teacher), options)
    assert asked == []
    one, other = (load_model_directory(tmp_path / name) for name in ("whole", "again"))
    assert one.card.files == other.card.files


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"labelled": 0}, "labelled is 0; use 1 or more"),
        ({"slates": 5}, "5 slates do not divide into 2 parts"),
        ({"average": 1.0}, "average is 1.0; use 0 to below 1"),
        ({"trained_share": 1.5}, "trained_share is 1.5"),
        ({"pooled_weight": -1.0}, "pooled_weight is -1.0; use 0 or more"),
        ({"substituted_worlds": -1}, "write a whole number of 0 or more"),
        ({"rates": 1}, "is unknown"),
    ],
)
def test_options_that_cannot_be_done_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        imitate.STAGE.parse(wrong)


def test_its_cost_holds_labels_bags_and_the_whole_decoder() -> None:
    assert imitate.STAGE.cost is not None
    teacher = Shape(33_000_000, 12_000_000, 384, 6)
    options = ImitateOptions(labelled=10, bag_steps=20, steps=30)
    alone, whole = (imitate.STAGE.cost(options, shape) for shape in (None, teacher))
    assert whole.steps == 1 + 20 + 30
    pairs = 10 * options.slates * options.candidates * costs.PAIR_TOKENS
    texts = 10 * 2 * costs.OCCUPATIONS * costs.TEXT_TOKENS
    labels = whole.operations - alone.operations
    assert labels == pytest.approx(2.0 * (pairs + texts) * teacher.body / 2)
    assert whole.shape == alone.shape
    near = imitate.STAGE.cost(replace(options, token_weight=0.1), teacher)
    texts = 30 * (options.slates // options.parts + costs.OCCUPATIONS) * costs.TEXT_TOKENS
    assert near.operations - whole.operations == pytest.approx(2.0 * texts * teacher.body / 2)


@pytest.mark.long
def test_states_other_words_and_short_passes_make_another_student(
    small_data: Path, tmp_path: Path
) -> None:
    teacher, digests = _teacher(tmp_path, ("towers",)), set()
    others: tuple[dict[str, Any], ...] = (
        {},
        {"token_weight": 1.0},
        {"substituted_worlds": 1},
        {"cpu_passes": "bfloat16"},
    )
    for number, more in enumerate(others):
        out = tmp_path / str(number)
        imitate.run(_stage(small_data, out, teacher), {**SMALL, **more})
        digests.add(load_model_directory(out).card.files["model.safetensors"])
    assert len(digests) == len(others)


def test_turns_hold_every_kind_that_has_worlds() -> None:
    plain, mixed, substituted = Kind
    assert {*ImitateOptions().turn} == {plain, mixed}
    options = ImitateOptions(substituted_worlds=3)
    assert {*options.turn} == {*Kind}
    assert options.worlds[substituted] == 3


def test_a_teacher_without_towers_or_none_is_refused(small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="needs a teacher"):
        imitate.run(_stage(small_data, tmp_path / "out", None), SMALL)
    teacher = _teacher(tmp_path, ("joint",))
    with pytest.raises(RecipeError, match="towers"):
        imitate.run(_stage(small_data, tmp_path / "out", teacher), SMALL)
