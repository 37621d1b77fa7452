"""What a run's weights come from: data, directories that it is given, and those that options name.

Told at its start, by which a folder of another run is refused, and again before every stage: what
changed meanwhile would leave stages that learnt from one thing and stages that learnt from another.
Knows no stage's inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compress.measure.scorers import SCORER_NAME
from compress.recipes.recipe import Recipe
from compress.stages import parallel
from compress.stages.own_work import path_digest
from compress.stages.stage import (
    CPU,
    RecipeError,
    StageError,
    device_of,
    directory_digest,
    file_digests,
)
from models.card import CARD_NAME, file_digest


def start_of(recipe: Recipe) -> list[Any]:
    """What all weights come from. Raises RecipeError where a part, or the device, is not there."""
    device = device_of(recipe.device).type
    given = [_digest(directory) for directory in recipe.given().values()]
    digest = directory_digest(Path(recipe.data))
    elsewhere = [] if device == CPU else [device]
    return [digest, recipe.seed, recipe.threads, parallel.world(), given, *elsewhere]


def stages_of(recipe: Recipe) -> list[list[Any]]:
    """What the weights of each stage come from beside."""
    return [
        [title, entry.stage, dict(entry.options), [path_digest(place) for place in places]]
        for (title, entry), places in zip(recipe.entries(), _places(recipe), strict=True)
    ]


def _places(recipe: Recipe) -> Iterator[list[Path]]:
    """What the options of each stage name by path."""
    known = set(recipe.given())
    for title, entry in recipe.entries():
        kind = entry.kind
        yield kind.places(kind.parse(entry.options), Path(recipe.data), known)
        known.add(title)


def sources_of(recipe: Recipe) -> dict[Path, str]:
    """Digests of all that a run reads and does not write, file by file where it is data."""
    data = Path(recipe.data)
    files = {data / name: digest for name, digest in file_digests(data).items()}
    given = {path: _digest(path) for path in recipe.given().values()}
    named = {place: path_digest(place) for places in _places(recipe) for place in places}
    return files | given | named


def refuse_changed_sources(recipe: Recipe, begun_with: Mapping[Path, str], work: Path) -> None:
    """Raises StageError naming what is no longer what the run in `work` found as it began."""
    found = sources_of(recipe)
    for path in sorted(begun_with.keys() | found.keys()):
        if begun_with.get(path) != found.get(path):
            raise StageError(
                f"{path} changed since the run began, and what lies in {work} was made of it as it "
                f"was; put it back and give the same command again, or remove {work} and begin anew"
            )


def _digest(directory: Path) -> str:
    """Of a model directory or a teacher: that of the file which holds its own digests."""
    for name in (CARD_NAME, SCORER_NAME):
        if (directory / name).exists():
            return file_digest(directory / name)
    raise RecipeError(f"{directory} holds neither {CARD_NAME} nor {SCORER_NAME}; name a directory")
