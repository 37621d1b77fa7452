"""What a stage cannot go without: the model that it starts from, its labels. Knows no stage."""

from __future__ import annotations

from pathlib import Path

from compress.stages.stage import Incoming, RecipeError, Shape, StageInput
from models.card import read_card

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


def require_labels(incoming: Incoming, name: str) -> None:
    """Raises RecipeError where the stage called `name` trains two labels, and the model that comes
    in is known to answer with something else.
    """
    if incoming.origin is None:
        return
    head, card = next(iter(read_card(incoming.origin, verify=False).scoring_heads.items()))
    if len(card.labels) != 2:
        raise RecipeError(
            f"{name} trains two labels of a language model, but head {head!r} of {incoming.origin} "
            f"answers with {'labels' if card.labels else 'classes'} {', '.join(card.grades)}; "
            "start from a language model whose card names two labels"
        )
