"""How far a result is from the truth. Knows nothing of what computed either."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def worst_error(actual: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    """The largest `relative_error` of several results. Raises ValueError for another number."""
    if len(actual) != len(truth):
        raise ValueError(f"{len(actual)} results; the reference has {len(truth)}")
    return max(map(relative_error, actual, truth), default=0.0)


def relative_error(actual: Tensor, truth: Tensor) -> float:
    """Largest error over the largest true value; 0 for no elements.

    Infinite for another shape and for a NaN or an infinity that the truth has not.
    """
    if actual.shape != truth.shape:
        return math.inf
    wide = torch.float32 if truth.dtype == torch.float32 else torch.float64
    actual, truth = actual.to(wide), truth.to(wide)
    finite = truth.isfinite()
    if not finite.all():
        if not torch.equal(actual[~finite], truth[~finite]):
            return math.inf
        actual, truth = actual[finite], truth[finite]
    if truth.numel() == 0:
        return 0.0
    error = float((actual - truth).abs().max())
    scale = max(float(truth.abs().max()), 1e-30)
    return error / scale if math.isfinite(error) else math.inf
