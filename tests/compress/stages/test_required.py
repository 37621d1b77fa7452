"""What a stage cannot go without is refused by name, with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.stages.required import required_shape, required_source
from compress.stages.stage import RecipeError, Shape, StageInput


def _given(source: Path | None) -> StageInput:
    return StageInput(source, Path("data"), Path("out"), Path("work"), seed=1, threads=1)


def test_a_stage_without_a_model_is_told_where_to_get_one() -> None:
    for missing in (
        lambda: required_source(_given(None), "prune"),
        lambda: required_shape(None, "prune"),
    ):
        with pytest.raises(RecipeError, match="prune starts from a model directory; put a stage"):
            missing()


def test_what_is_there_is_given_back() -> None:
    shape = Shape(10, 4, 2, 1)
    assert required_source(_given(Path("model")), "prune") == Path("model")
    assert required_shape(shape, "prune") is shape
