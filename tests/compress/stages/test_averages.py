"""Averaged weights: what they follow, and that none are held where none are asked for."""

from __future__ import annotations

import torch
from torch import nn

from compress.stages.averages import Averages


def _moved(model: nn.Linear, value: float) -> None:
    with torch.no_grad():
        model.weight.fill_(value)


def test_the_average_follows_by_its_decay_and_faster_at_first() -> None:
    model = nn.Linear(1, 1, bias=False)
    _moved(model, 0.0)
    averages = Averages(model, 0.5)
    _moved(model, 1.0)
    averages.follow(0)  # (2 + 0) / (11 + 0) is below the decay
    averages.follow(100)
    averages.put()
    expected = 1 - (2 / 11) * 0.5
    torch.testing.assert_close(model.weight.item(), expected)


def test_weights_that_are_not_trained_stay() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    averages = Averages(model, 0.9)
    assert [mean.shape for mean in averages.state()] == [model.weight.shape]


def test_no_decay_holds_nothing_and_leaves_the_last_weights() -> None:
    model = nn.Linear(1, 1, bias=False)
    averages = Averages(model, 0.0)
    _moved(model, 3.0)
    averages.follow(0)
    averages.put()
    assert averages.state() == []
    assert model.weight.item() == 3.0


def test_a_state_goes_on_where_it_was() -> None:
    model = nn.Linear(1, 1, bias=False)
    _moved(model, 2.0)
    first, second = Averages(model, 0.9), Averages(model, 0.9)
    _moved(model, 4.0)
    first.follow(50)
    second.load(first.state())
    second.put()
    torch.testing.assert_close(model.weight.item(), 2.0 + 2.0 * (1 - 52 / 61))
