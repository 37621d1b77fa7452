"""Training by the clock: a stand-in clock, and which weights are kept."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.stages import timed
from compress.stages.timed import Clock, train_timed


class Ticks:
    """Time that passes by one second at every look."""

    def __init__(self) -> None:
        self._ticks = itertools.count()

    def monotonic(self) -> float:
        return float(next(self._ticks))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Any:
    def train(select: list[float], seconds: float) -> tuple[nn.Parameter, dict[str, float], int]:
        monkeypatch.setattr(timed, "time", Ticks())
        weight, answers, seen = nn.Parameter(torch.zeros(1)), iter(select), []

        def loss_of(target: float) -> Tensor:
            seen.append(target)
            return (weight - target).square().sum()

        best = train_timed(
            [weight],
            torch.optim.SGD([weight], lr=0.1),
            _forever(5.0),
            loss_of,
            Clock(seconds, warmup=1, evaluate_every=3.0, average=0.5),
            lambda: {"select": next(answers), "weight": float(weight.detach())},
            lambda row: None,
        )
        return weight, best, len(seen)

    return train


def _forever(value: float) -> Iterator[float]:
    return itertools.repeat(value)


def test_it_ends_by_the_clock_and_moves(trained: Any) -> None:
    weight, best, steps = trained([float(i) for i in range(99)], 20.0)
    assert 5 <= steps <= 20
    assert best["at_steps"] == steps
    assert 0 < float(weight) <= 5


def test_the_weights_that_did_best_are_kept(trained: Any) -> None:
    weight, best, steps = trained([1.0, 9.0, *[2.0] * 99], 40.0)
    assert best["select"] == 9.0
    assert best["at_steps"] < steps
    assert float(weight) == pytest.approx(best["weight"])


def test_rates_warm_up_and_fall_to_the_floor() -> None:
    clock = Clock(10.0, warmup=4, evaluate_every=1.0, floor=0.1)
    assert clock.factor(0, 0.0) == pytest.approx(0.25)
    assert clock.factor(9, 0.0) == pytest.approx(1.0)
    assert clock.factor(9, 10.0) == clock.factor(9, 99.0) == pytest.approx(0.1)
