"""Where a rule leaves a choice, and the loss there."""

from __future__ import annotations

import torch

from compress.reasons.choices import choice_loss, choices_of
from models.reasons.lattice import Lattice


def test_only_places_with_several_tokens_are_choices() -> None:
    answers = Lattice((((4, 1),), ((1, 2), (2, 2)), ((3, 3),), ((5, 4), (6, 4)), ()))
    assert choices_of(answers, [4, 2, 3, 6]) == [(1, [1, 2]), (3, [5, 6])]
    assert choices_of(answers, [4, 2, 7, 6]) == [(1, [1, 2])]  # none of its answers behind that


def test_the_loss_compares_allowed_tokens_alone() -> None:
    states, weight = torch.randn(3, 4), torch.randn(6, 4)
    targets = torch.tensor([1, 0, 5])
    loss = choice_loss(states, weight, targets, [(0, [1, 2]), (2, [3, 4, 5])])
    first = torch.nn.functional.cross_entropy(states[0] @ weight[1:3].T, torch.tensor(0))
    second = torch.nn.functional.cross_entropy(states[2] @ weight[3:6].T, torch.tensor(2))
    torch.testing.assert_close(loss, (first + second) / 2)


def test_without_choices_there_is_no_loss() -> None:
    assert choice_loss(torch.randn(1, 4), torch.randn(6, 4), torch.tensor([1]), []) == 0
