"""A start from requests alone: a decoder of the sizes asked for, fit to go on from."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.distillation import distill
from compress.stages.stage import RecipeError, Shape, StageInput
from compress.students import start
from models.checkpoint import load_model_directory
from tests.compress.slate_data import stage_input, write_slates

SIZES = {"vocab_size": 320, "hidden_size": 128, "intermediate_size": 128}


def test_it_starts_a_ranker_that_can_learn(tmp_path: Path) -> None:
    data, out = write_slates(tmp_path / "data"), tmp_path / "start"
    start.run(StageInput(None, data, out, tmp_path / "work", seed=5, threads=1), SIZES)
    directory = load_model_directory(out)
    assert directory.config.hidden_size == 128
    assert directory.card.lineage["stages"][0]["options"]["vocab_size"] == 320
    options = {"phases": [{"steps": 2, "soft_share": 0.0}], "slates_of": "requests", "teachers": []}
    distill.run(stage_input(out, data, tmp_path / "taught"), options)
    assert len(load_model_directory(tmp_path / "taught").card.lineage["stages"]) == 2


def test_its_cost_is_its_size() -> None:
    found = start.cost(start.StartOptions(**SIZES), None)
    assert isinstance(found.shape, Shape)
    assert (found.steps, found.shape.embeddings) == (0, 320 * 128)


def test_unknown_options_are_refused(tmp_path: Path) -> None:
    data = write_slates(tmp_path / "data")
    with pytest.raises(RecipeError, match="options are"):
        start.run(
            StageInput(None, data, tmp_path / "out", tmp_path / "work", seed=5, threads=1),
            {"colour": "red"},
        )
    with pytest.raises(RecipeError, match="an even number"):
        start.StartOptions(heads=4)
