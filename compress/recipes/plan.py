"""What a recipe will cost, told before anything starts. Knows the sizes of things, runs none.

Seconds are operations over the rate at which this machine's CPU computes a large product of their
dtype, times SLOWER, what the rest of a step takes beside its products; it is less of an encoder's
passes, which are large. A recipe that asks for a GPU is priced so too: what a GPU will take is not
known before.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from compress.data.requests import halves, load_requests
from compress.recipes.beforehand import planned
from compress.recipes.recipe import Recipe
from compress.recipes.records import SLATES
from compress.stages.costs import pass_cost
from compress.stages.stage import CPU, Cost

SLOWER = 2.5  # measured on the demo's stages
WIDE_SLOWER, NARROW_SLOWER = 1.35, 2.2  # of an encoder's passes, measured with that of the demo
CHARACTERS = 4.5  # of a token
PRODUCT = 1024  # rows of the timed product
PRODUCTS = 5  # of which the median counts: another process may be at work beside one


@dataclass(frozen=True, slots=True)
class Estimate:
    """One stage of a recipe. seconds: its steps and its gate; memory, size: bytes."""

    name: str
    stage: str
    cost: Cost
    seconds: float


def estimates(recipe: Recipe) -> Iterator[Estimate]:
    """Every stage in turn."""
    rate, gate_tokens = _rate(recipe.threads, torch.float32), _gate_tokens(recipe)
    for one in planned(recipe):
        cost, shape = one.cost, one.cost.shape or one.incoming.shape
        gate = pass_cost(gate_tokens, shape).operations if shape and cost.ranks else 0.0
        others = cost.operations - cost.wide - cost.narrow + gate
        seconds = (SLOWER * others + WIDE_SLOWER * cost.wide) / rate
        if cost.narrow:  # a CPU that does not multiply bfloat16 takes long to tell its rate
            seconds += NARROW_SLOWER * cost.narrow / _rate(recipe.threads, torch.bfloat16)
        yield Estimate(one.title, one.entry.stage, cost, seconds)


def table(recipe: Recipe) -> str:
    """For people: one line a stage, and the sum."""
    rows, total = [], 0.0
    for one in estimates(recipe):
        total += one.seconds
        size = f"{one.cost.shape.size / 1e6:.1f}" if one.cost.shape else "?"
        rows.append(
            f"{one.name:<16}{one.stage:<16}{one.cost.steps:>8,}{one.cost.tokens:>14,}"
            f"{one.seconds:>10,.0f}{one.cost.memory / 1e6:>12,.0f}{size:>10}"
        )
    head = f"{'name':<16}{'stage':<16}{'steps':>8}{'tokens':>14}{'seconds':>10}"
    head += f"{'memory MB':>12}{'size MB':>10}"
    return "\n".join([head, *rows, _sum(recipe, total)])


def _sum(recipe: Recipe, seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    said = f"about {hours:,} hours {minutes} minutes on {recipe.threads} threads of this CPU"
    if recipe.device == CPU:
        return said
    return f"{said}; device is {recipe.device}, and what a GPU takes is not known before"


def _rate(threads: int, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a square product, here and now."""
    torch.set_num_threads(threads)
    square = torch.ones(PRODUCT, PRODUCT, dtype=dtype)
    square @ square
    return 2.0 * PRODUCT**3 / median(_seconds_of_product(square) for _ in range(PRODUCTS))


def _seconds_of_product(square: Tensor) -> float:
    begin = time.perf_counter()
    square @ square
    return time.perf_counter() - begin


def _gate_tokens(recipe: Recipe) -> int:
    """What one gate scores, the slates of the speed included."""
    requests, _ = halves(load_requests(Path(recipe.data), "valid"))
    texts = [text for request in [*requests, *requests[:SLATES]] for text in request.candidates]
    return int(sum(len(text) for text in texts) / CHARACTERS)
