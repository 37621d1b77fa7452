"""The imitating student's stage: a served directory, told from whom; what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compress.data.requests import Request
from compress.encoders.encoder import load_encoder
from compress.encoders.pair_encoder import PairEncoder
from compress.encoders.pair_teacher import EncoderTeacher, save_teacher
from compress.measure.scorers import DirectoryScorer
from compress.stages.stage import RecipeError, StageInput
from compress.students import imitate
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
    save_teacher(directory / "teacher", encoder, models, weights, {})
    return directory / "teacher"


def _stage(data: Path, out: Path, teacher: Path | None) -> StageInput:
    work = out.with_name(out.name + ".work")
    return StageInput(None, data, out, work, seed=1, threads=1, teacher=teacher)


def test_it_writes_a_directory_that_is_served(small_data: Path, tmp_path: Path) -> None:
    teacher = _teacher(tmp_path, ("towers",))
    imitate.run(_stage(small_data, tmp_path / "out", teacher), {**SMALL, "layers": 4})
    directory = load_model_directory(tmp_path / "out")
    assert directory.config.num_hidden_layers == 4
    (entry,) = directory.card.lineage["stages"]
    assert entry["stage"] == "imitate"
    assert entry["teacher"] == EncoderTeacher.load(teacher).digest
    request = Request("g", "Headline: welder.", ("weld steel", "teach pupils"), (4, 0))
    for prompt in ("member_to_jobs", "job_to_members"):
        (answers,) = DirectoryScorer(directory, prompt).raw_logits([request])
        assert answers[0] != answers[1]


def test_a_teacher_without_towers_or_none_is_refused(small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="needs a teacher"):
        imitate.run(_stage(small_data, tmp_path / "out", None), SMALL)
    teacher = _teacher(tmp_path, ("joint",))
    with pytest.raises(RecipeError, match="towers"):
        imitate.run(_stage(small_data, tmp_path / "out", teacher), SMALL)
