"""What a stage cannot go without: the model that it starts from. Knows no stage."""

from __future__ import annotations

from pathlib import Path

from compress.stages.stage import RecipeError, Shape, StageInput

MISSING = (
    "{} starts from a model directory; put a stage that makes one before it, or name one: --source "
    "of a stage alone, source of a recipe"
)


def required_source(stage: StageInput, name: str) -> Path:
    """The directory that the stage called `name` starts from. Raises RecipeError without one."""
    if stage.source is None:
        raise RecipeError(MISSING.format(name))
    return stage.source


def required_shape(shape: Shape | None, name: str) -> Shape:
    """Of the model that the stage called `name` starts from. Raises RecipeError without one."""
    if shape is None:
        raise RecipeError(MISSING.format(name))
    return shape
