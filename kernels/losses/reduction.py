"""Turns losses of rows into one number without waiting for the device. Knows nothing of any loss.

Rows whose target is `ignore_index` do not count: mean divides by the number of the others, which
stays on the device. When none is left the mean is 0, where torch has NaN: an accumulated step with
one batch of nothing but prompts goes on.
"""

from __future__ import annotations

import torch
from torch import Tensor

REDUCTIONS = ("mean", "sum", "none")


def check_reduction(reduction: str) -> None:
    """Raises ValueError for another name."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}; pass 'mean', 'sum' or 'none'")


def row_weight(targets: Tensor | None, rows: Tensor, ignore_index: int, reduction: str) -> Tensor:
    """What each row's loss counts in the sum: a scalar float32 on the device of `rows` (N, ...)."""
    if reduction != "mean":
        return torch.ones((), device=rows.device)
    if targets is None:
        return torch.full((), 1.0 / max(1, rows.shape[0]), device=rows.device)
    return (targets != ignore_index).sum().clamp_min(1).float().reciprocal()


def reduced(losses: Tensor, targets: Tensor | None, ignore_index: int, reduction: str) -> Tensor:
    """`losses` (N,) themselves, their sum, or their mean over the rows that count."""
    if reduction == "none":
        return losses
    return losses.sum() * row_weight(targets, losses, ignore_index, reduction)
