"""How much every layer keeps: alike everywhere, or where it costs least for the same time.

Knows no weights and no clock: what a width loses and how long it takes are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.config import DecoderConfig
from models.errors import FairslateError

BINS = 2_000  # of the time that all choices together may take


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
    """One size of one half of a layer: what it takes of the time, and what it adds to the loss."""

    size: int
    seconds: float
    loss: float


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


def allocate(choices: Sequence[Sequence[Choice]], seconds: float) -> list[Choice]:
    """One choice of each half: the least loss in sum that takes at most `seconds` in sum.

    Exact but for times rounded up to a share 1 / BINS of `seconds`. Raises BudgetError when even
    the fastest choices take longer.
    """
    best, picked = np.zeros(BINS + 1), []
    for options in choices:
        reached = np.full((len(options), BINS + 1), np.inf)
        for row, option in enumerate(options):
            bins = int(np.ceil(option.seconds / seconds * BINS - 1e-6))
            if bins <= BINS:
                reached[row, bins:] = best[: BINS + 1 - bins] + option.loss
        picked.append(reached.argmin(0))
        best = reached.min(0)
    if not np.isfinite(best[-1]):
        fastest = [min(options, key=lambda option: option.seconds) for options in choices]
        least = sum(option.seconds for option in fastest)
        if least <= seconds * (1 + 1e-9):
            return fastest  # only rounding stood in the way
        raise BudgetError(
            f"the smallest widths take {least:.3g} s, more than the {seconds:.3g} s allowed; allow "
            "more or drop layers"
        )
    return _walk_back(choices, picked, seconds)


def _walk_back(
    choices: Sequence[Sequence[Choice]], picked: Sequence[np.ndarray], seconds: float
) -> list[Choice]:
    room, found = BINS, []
    for options, rows in zip(reversed(choices), reversed(picked), strict=True):
        choice = options[int(rows[room])]
        room -= int(np.ceil(choice.seconds / seconds * BINS - 1e-6))
        found.append(choice)
    return found[::-1]


def monotone(seconds: Mapping[int, float]) -> dict[int, float]:
    """Measured times by size, so that a larger size is never faster: noise would be chosen."""
    sizes = sorted(seconds)
    return dict(
        zip(sizes, np.maximum.accumulate([seconds[s] for s in sizes]).tolist(), strict=True)
    )
