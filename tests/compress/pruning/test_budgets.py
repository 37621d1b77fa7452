"""Budgets: rounding, the largest step, and the best choice of widths for a time."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.pruning.budgets import (
    Budget,
    BudgetError,
    Choice,
    allocate,
    least_share,
    monotone,
    refuse_large_step,
    uniform_budget,
    weights_of,
)
from models.config import DecoderConfig
from models.decoder import DecoderLayer

CONFIG = DecoderConfig(400, 64, 96, 2, 8, 4, 16)


@pytest.mark.parametrize(
    ("mlp_share", "kv_share", "multiple", "kept"),
    [
        (0, 0, 32, (96, 4)),
        (0.375, 0.25, 4, (60, 3)),
        (0.375, 0.3, 32, (64, 3)),
        (0.99, 0.9, 8, (8, 1)),
    ],
)
def test_shares_become_whole_widths(
    mlp_share: float, kv_share: float, multiple: int, kept: tuple[int, int]
) -> None:
    assert uniform_budget(CONFIG, mlp_share, kv_share, multiple) == Budget(*kept)


@given(st.integers(1, 3000), st.integers(1, 64))
def test_the_least_share_takes_something_and_a_smaller_one_nothing(
    count: int, multiple: int
) -> None:
    least = least_share(count, multiple)
    if least is None:
        assert uniform_budget(replace(CONFIG, intermediate_size=count), 0.999, 0, multiple) == (
            Budget(count, 4)
        )
        return
    wide = replace(CONFIG, intermediate_size=count, num_key_value_heads=count)
    assert uniform_budget(wide, least, 0, multiple).neurons < count
    smaller = max(0, least - 0.002 - 1 / count)  # a share is of whole neurons, and in thousandths
    assert uniform_budget(wide, smaller, 0, multiple).neurons == count
    if multiple == 1:
        assert uniform_budget(wide, 0, least, 1).kv_groups < count


def test_a_step_that_takes_too_much_is_refused_unless_forced() -> None:
    refuse_large_step(CONFIG, Budget(48, 2), most=0.5, forced=False)
    for budget in (Budget(47, 4), Budget(96, 1)):
        with pytest.raises(BudgetError, match="would go at once, the most is 50%"):
            refuse_large_step(CONFIG, budget, most=0.5, forced=False)
        refuse_large_step(CONFIG, budget, most=0.5, forced=True)


def test_the_allocation_is_the_best_of_all() -> None:
    random = np.random.default_rng(4)
    choices = [
        [
            Choice(size, size * random.uniform(0.8, 1.2), random.exponential() / size)
            for size in (1, 2, 4)
        ]
        for _ in range(6)
    ]
    found = allocate(choices, 14.0)
    assert sum(choice.price for choice in found) <= 14
    best = min(
        sum(choice.loss for choice in picked)
        for picked in product(*choices)
        if sum(choice.price for choice in picked) <= 14 * (1 - 6 / 2000)
    )
    assert sum(choice.loss for choice in found) <= best
    alike = sum(options[1].loss for options in choices)
    assert sum(choice.loss for choice in allocate(choices, 12 * 1.2)) < alike


OPTIONS = st.dictionaries(st.integers(1, 40), st.integers(0, 1000), min_size=1, max_size=4)


@given(st.lists(OPTIONS, min_size=1, max_size=4), st.integers(1, 7), st.integers(0, 9))
def test_whole_prices_are_spent_to_the_last_one(
    halves: list[dict[int, int]], unit: int, more: int
) -> None:
    choices = [[Choice(n, n * unit, loss) for n, loss in half.items()] for half in halves]
    limit = sum(min(half) for half in halves) * unit + more
    found = allocate(choices, limit)
    assert sum(choice.price for choice in found) <= limit
    assert sum(choice.loss for choice in found) == min(
        sum(choice.loss for choice in picked)
        for picked in product(*choices)
        if sum(choice.price for choice in picked) <= limit
    )


def test_whole_prices_are_not_rounded() -> None:
    choices = [[Choice(size, size, -size) for size in (288, 320, 352)]] * 3
    assert sum(choice.price for choice in allocate(choices, 960)) == 960


def test_weights_are_those_of_a_layer() -> None:
    prices = weights_of(CONFIG, [96], [4])
    layer = DecoderLayer(CONFIG)
    for half, price in ((layer.mlp, prices.mlp[96]), (layer.self_attn, prices.attention[4])):
        counted = sum(weight.numel() for weight in half.parameters() if weight.ndim == 2)
        assert price * CONFIG.hidden_size == counted


def test_a_time_that_nothing_meets_is_refused() -> None:
    with pytest.raises(BudgetError, match="allow more or drop layers"):
        allocate([[Choice(1, 2.0, 0.1)], [Choice(1, 2.0, 0.1)]], 3.9)


def test_a_time_that_only_the_fastest_meet_is_met() -> None:
    choices = [[Choice(1, 0.1, 0.5), Choice(2, 0.2, 0.0)]] * 7
    assert [choice.size for choice in allocate(choices, 7 * 0.1)] == [1] * 7


def test_a_larger_size_is_never_faster() -> None:
    assert monotone({4: 3.0, 1: 1.0, 2: 4.0}) == {1: 1.0, 2: 4.0, 4: 4.0}
