"""Operands of score_head and what it should make of them. Knows no kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.kernels.truth import draw

EPS = 1e-6
# Results are fp32 whatever comes in; the worst RMSE ratio measured over shapes and dtypes is 2.7e-7
TOLERANCE = 5e-7


def operands(
    rows: int, hidden: int, labels: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    states, weight = draw(rows, hidden).mul(3), draw(hidden, seed=1).add(1)
    return states.to(dtype), weight.to(dtype), draw(labels, hidden, seed=2).to(dtype)


def truth(hidden: Tensor, norm_weight: Tensor, label_rows: Tensor) -> Tensor:
    rows = hidden.double()
    norm = rows / (rows.square().mean(-1, keepdim=True) + EPS).sqrt()
    return (norm * norm_weight.double()) @ label_rows.double().T
