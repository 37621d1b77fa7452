"""What each stage of a recipe will be given and cost, and what of it cannot work. Runs no stage.

Whatever can be seen from the recipe, the data and the shapes of models is refused here, before the
first stage has trained for hours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from compress.data.read_through import read_through
from compress.data.requests import request_files
from compress.recipes.recipe import Recipe, RecipeStage, of_stage
from compress.recipes.selecting import SPLIT, refuse_nothing_to_measure
from compress.stages.costs import shape_of
from compress.stages.required import required_shape
from compress.stages.stage import (
    SOURCE,
    TEACHER,
    Cost,
    Incoming,
    RecipeError,
    Shape,
    StageKind,
)
from models.card import CARD_NAME, read_card
from models.config_reader import read_config
from models.errors import FairslateError


@dataclass(frozen=True, slots=True)
class Planned:
    """One stage: its options, what comes in, and what it costs."""

    title: str
    entry: RecipeStage
    options: Any
    incoming: Incoming
    cost: Cost


def refuse_what_cannot_work(recipe: Recipe) -> None:
    """Raises a FairslateError, which names the stage, for what would fail once others have run."""
    _refuse_missing(Path(recipe.data), request_files(SPLIT), "gates are held on it")
    refuse_nothing_to_measure(recipe)
    _refuse_lost_encoders(recipe)
    read = cache(partial(read_through, Path(recipe.data)))  # of several stages, once
    for one in planned(recipe):
        kind = one.entry.kind
        with _of_stage(one.title):
            if kind.reads:
                names = tuple(kind.reads(one.options))
                _refuse_missing(one.incoming.data, names, "this stage reads it")
                read(names)
            if kind.check:
                kind.check(one.options, one.incoming)


def _refuse_lost_encoders(recipe: Recipe) -> None:
    """An item encoder holds for the weights that it was trained for, and is lost with them."""
    trained = ""
    for title, entry in recipe.entries():
        if trained and not entry.kind.keeps:
            raise RecipeError(
                f"{title}: changes the weights that {trained!r} trained an item encoder for, which "
                f"would be lost; put {trained!r} last, with nothing but calibrate after it"
            )
        if entry.kind.encodes:
            trained = title


def planned(recipe: Recipe) -> Iterator[Planned]:
    """Every stage in turn. Raises RecipeError for one that has no model to start from."""
    incoming = _first(recipe)
    teacher = _given_shape(recipe.teacher)  # for its price, whatever it is
    for title, entry in recipe.entries():
        kind = entry.kind
        with _of_stage(title):
            options = kind.parse(entry.options)
            if kind.starts:
                required_shape(incoming.shape, entry.stage)
            priced = incoming.shape if kind.starts else incoming.shape or teacher
            cost = kind.cost(options, priced) if kind.cost else Cost(shape=incoming.shape)
        yield Planned(title, entry, options, incoming, cost)
        if title == TEACHER:
            teacher = cost.shape
        incoming = _after(title, kind, cost.shape, incoming)


def _after(title: str, kind: StageKind, made: Shape | None, incoming: Incoming) -> Incoming:
    """What the next stage will be given. made: the shape of what this one writes, where known."""
    origin = incoming.origin if kind.starts else None
    known = replace(incoming, origins={**incoming.origins, title: origin})
    if title == TEACHER:
        return replace(known, taught=True, by_model=kind.makes)
    return replace(
        known,
        shape=(made or incoming.shape) if kind.makes else None,
        prompts=kind.prompts or incoming.prompts,
        heads=kind.heads or incoming.heads,
        origin=origin,
    )


def _first(recipe: Recipe) -> Incoming:
    """What comes into the first stage."""
    source, given = _given_shape(recipe.source), recipe.given()
    first = Incoming(
        Path(recipe.data),
        source,
        taught=TEACHER in given,
        by_model=_given_shape(recipe.teacher) is not None,
        origins=given,
    )
    if source is None:
        return first
    card = read_card(given[SOURCE])
    heads = tuple(card.scoring_heads)
    return replace(first, prompts=tuple(card.prompts), heads=heads, origin=given[SOURCE])


def _given_shape(given: object) -> Shape | None:
    """Of a model directory that a recipe names; None for a stage and for a ranker of other kind."""
    if not isinstance(given, str) or not (Path(given) / CARD_NAME).exists():
        return None
    return shape_of(read_config(Path(given)))


def _refuse_missing(data: Path, names: Sequence[str], why: str) -> None:
    if not data.is_dir():
        raise RecipeError(f"data {str(data)!r} is no folder here; run from the repository's root")
    for name in names:
        if not (data / name).is_file():
            raise RecipeError(f"{data / name} is missing, and {why}; write it, or name other data")


@contextmanager
def _of_stage(title: str) -> Iterator[None]:
    """What is raised names the stage."""
    try:
        yield
    except FairslateError as error:
        raise of_stage(title, error) from error
