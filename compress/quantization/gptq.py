"""GPTQ: rounds input by input and lets the inputs that are left make up for each error.

With U the upper Cholesky factor of (X Xᵀ)⁻¹, the error (w - ŵ) / U_jj of input j is pushed to the
inputs after it by row U_j: (arXiv 2210.17323, algorithm 1). Knows no model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compress.layers.gram import CalibrationDataError
from compress.quantization.grid import Grid

BLOCK = 128
DAMPING = 0.01  # of the mean diagonal


def quantize_gptq(weight: Tensor, hessian: Tensor, grid: Grid, act_order: bool = True) -> Tensor:
    """weight: (q, p). hessian: (p, p), X Xᵀ without damping. Returns (q, p) values on the grid.

    act_order takes the inputs of largest second moment first; scales stay those of `grid`.
    """
    order = hessian.diagonal().argsort(descending=True) if act_order else torch.arange(len(hessian))
    factor = _inverse_factor(damped(hessian)[order][:, order]).to(weight.dtype)
    left, done = weight[:, order].clone(), torch.empty_like(weight)
    for begin in range(0, len(order), BLOCK):
        end = min(begin + BLOCK, len(order))
        errors = left.new_empty(len(weight), end - begin)
        for place in range(begin, end):
            index = int(order[place])
            done[:, index] = grid.rounded_column(left[:, place], index)
            error = (left[:, place] - done[:, index]) / factor[place, place]
            left[:, place:end] -= torch.outer(error, factor[place, place:end])
            errors[:, place - begin] = error
        left[:, end:] -= errors @ factor[begin:end, end:]
    return done


def damped(hessian: Tensor, share: float = DAMPING) -> Tensor:
    """The hessian with a share of its mean diagonal added; inputs that never spoke get 1."""
    diagonal = hessian.diagonal()
    ridge = torch.where(diagonal == 0, 1.0, share * diagonal.mean())
    return hessian + torch.diag(ridge)


def _inverse_factor(hessian: Tensor) -> Tensor:
    """U with hessian⁻¹ = Uᵀ U."""
    factor, info = torch.linalg.cholesky_ex(hessian)
    if int(info):
        raise CalibrationDataError(
            "the Gram matrix of the calibration inputs is not positive; give more text"
        )
    upper: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True)
    return upper
