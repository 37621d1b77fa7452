"""The requests on which gates are held: one half of `valid`. Knows no model and no run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from compress.data.requests import Request, halves, load_requests
from compress.measure.slices import FEWEST, slice_names
from compress.recipes.recipe import Recipe
from compress.stages.stage import RecipeError

SPLIT = "valid"


def selecting(data: Path) -> tuple[list[Request], list[dict[str, str]]]:
    """The half on which gates are held, and the slices of each request."""
    requests, names = load_requests(data, SPLIT), slice_names(data, SPLIT)
    belongs = {id(request): name for request, name in zip(requests, names, strict=True)}
    half, _ = halves(requests)
    return half, [belongs[id(request)] for request in half]


def refuse_nothing_to_measure(recipe: Recipe) -> None:
    """Before a stage has trained for nothing. Raises DataError for rows that are no requests."""
    data = Path(recipe.data)
    requests, slices = selecting(data)
    if not requests:
        raise RecipeError(
            f"{data / SPLIT}.jsonl.gz: none of its groups falls into the half on which gates are "
            "held; give more users or occupations"
        )
    sizes = Counter(part for names in slices for part in names.items())
    large = {dimension for (dimension, _), size in sizes.items() if size >= FEWEST}
    for title, entry in recipe.entries():
        for gate in entry.conditions:
            if gate.dimension and gate.dimension not in large:
                raise RecipeError(f"{title}: {SPLIT} {gate.nothing_in_it}")
