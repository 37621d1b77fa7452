"""The slate loss: against its formula, and what it prefers."""

from __future__ import annotations

import torch

from compress.decoders.losses import slate_loss


def test_it_is_listnet_plus_cross_entropy() -> None:
    raw_logits = torch.tensor([[0.3, -1.0, 2.0]])
    grades = torch.tensor([[4, 0, 1]])
    targets = torch.tensor([15.0, 0.0, 1.0]) / 16
    listwise = -(targets * torch.log_softmax(raw_logits[0], 0)).sum()
    p = torch.sigmoid(raw_logits[0])
    binary = -(torch.log(p[0]) + torch.log(1 - p[1]) + torch.log(1 - p[2])) / 3
    torch.testing.assert_close(slate_loss(raw_logits, grades), listwise + binary)


def test_a_slate_without_gains_has_no_listwise_part() -> None:
    raw_logits, grades = torch.randn(2, 5), torch.zeros(2, 5, dtype=torch.int8)
    torch.testing.assert_close(
        slate_loss(raw_logits, grades, listwise_weight=9.0), slate_loss(raw_logits, grades, 0.0)
    )


def test_better_orders_lose_less() -> None:
    grades = torch.tensor([[4, 2, 0]])
    good, bad = torch.tensor([[3.0, 1.0, -2.0]]), torch.tensor([[-2.0, 1.0, 3.0]])
    assert slate_loss(good, grades) < slate_loss(bad, grades)
