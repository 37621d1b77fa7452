"""How much every layer keeps: alike everywhere, or where it costs least for the same price.

Knows no weights and no clock: what a width loses and how long it takes are given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.config import DecoderConfig
from models.errors import FairslateError

BINS = 2_000  # of the price that all choices together may have, where it is no whole number


class BudgetError(FairslateError):
    """A budget that one step must not take or that no choice of widths meets."""

    code = "budget_refused"


@dataclass(frozen=True, slots=True)
class Budget:
    """What one layer keeps."""

    neurons: int
    kv_groups: int


@dataclass(frozen=True, slots=True)
class Choice:
    """One size of one half of a layer: its price, and what it adds to the loss."""

    size: int
    price: float
    loss: float


@dataclass(frozen=True, slots=True)
class Prices:
    """Of one layer's halves, seconds or weights: mlp by neurons, attention by KV groups."""

    mlp: Mapping[int, float]
    attention: Mapping[int, float]


def weights_of(config: DecoderConfig, neurons: Sequence[int], groups: Sequence[int]) -> Prices:
    """How many weights the linear layers of a half have, in rows of `hidden_size`."""
    per_group = config.num_attention_heads // config.num_key_value_heads
    rows = 2 * (per_group + 1) * config.head_dim  # queries and output, key and value
    return Prices({size: 3 * size for size in neurons}, {count: rows * count for count in groups})


def uniform_budget(
    config: DecoderConfig, mlp_share: float, kv_share: float, multiple: int
) -> Budget:
    """What each layer keeps when these shares go; neurons in multiples, both rounded up."""
    groups = config.num_key_value_heads
    kept = -(-round(config.intermediate_size * (1 - mlp_share)) // multiple) * multiple
    return Budget(
        neurons=min(max(kept, multiple), config.intermediate_size),
        kv_groups=max(1, int(np.ceil(groups * (1 - kv_share) - 1e-9))),
    )


def least_share(count: int, multiple: int) -> float | None:
    """The least share, in thousandths, that takes any of `count`; None where all must stay."""
    most = (count - 1) // multiple * multiple  # that may be left
    return math.ceil((1 - most / count) * 1000 - 1e-9) / 1000 if most else None


def refuse_large_step(config: DecoderConfig, budget: Budget, most: float, forced: bool) -> None:
    """Raises BudgetError when one step would take more than a share `most` of any kind."""
    for name, kept, whole in (
        ("MLP neurons", budget.neurons, config.intermediate_size),
        ("KV groups", budget.kv_groups, config.num_key_value_heads),
    ):
        gone = 1 - kept / whole
        if gone > most + 1e-9 and not forced:
            raise BudgetError(
                f"{gone:.0%} of the {name} would go at once, the most is {most:.0%}; prune in "
                "several steps (the gradual stage) or set force"
            )


def allocate(choices: Sequence[Sequence[Choice]], limit: float) -> list[Choice]:
    """One choice of each half: the least loss in sum of those whose prices sum to at most `limit`.

    Exact, but for prices that are no whole numbers: they are rounded up to a share 1 / BINS of
    `limit`. Raises BudgetError when even the lowest prices are more.
    """
    priced, room = _in_bins(choices, limit)
    best, picked = np.zeros(room + 1), []
    for options, prices in zip(choices, priced, strict=True):
        reached = np.full((len(options), room + 1), np.inf)
        for row, (option, bins) in enumerate(zip(options, prices, strict=True)):
            if bins <= room:
                reached[row, bins:] = best[: room + 1 - bins] + option.loss
        picked.append(reached.argmin(0))
        best = reached.min(0)
    if np.isfinite(best[-1]):
        return _walk_back(choices, priced, picked, room)
    lowest = [min(options, key=lambda option: option.price) for options in choices]
    least = sum(option.price for option in lowest)
    if least <= limit * (1 + 1e-9):
        return lowest  # only rounding stood in the way
    raise BudgetError(
        f"the smallest widths take {least:.3g}, more than the {limit:.3g} allowed; allow more or "
        "drop layers"
    )


def _in_bins(choices: Sequence[Sequence[Choice]], limit: float) -> tuple[list[list[int]], int]:
    """Every price in bins, and how many `limit` has: one for what divides all whole prices."""
    prices = [option.price for options in choices for option in options]
    if all(float(price).is_integer() for price in prices):
        bin_size = float(math.gcd(*map(int, prices)))
    else:
        bin_size = limit / BINS
    found = [[math.ceil(one.price / bin_size - 1e-6) for one in options] for options in choices]
    return found, math.floor(limit / bin_size + 1e-6)


def _walk_back(
    choices: Sequence[Sequence[Choice]],
    priced: Sequence[Sequence[int]],
    picked: Sequence[np.ndarray],
    room: int,
) -> list[Choice]:
    found = []
    for options, prices, rows in zip(
        reversed(choices), reversed(priced), reversed(picked), strict=True
    ):
        row = int(rows[room])
        room -= prices[row]
        found.append(options[row])
    return found[::-1]


def monotone(seconds: Mapping[int, float]) -> dict[int, float]:
    """Measured times by size, so that a larger size is never faster: noise would be chosen."""
    sizes = sorted(seconds)
    return dict(
        zip(sizes, np.maximum.accumulate([seconds[s] for s in sizes]).tolist(), strict=True)
    )
