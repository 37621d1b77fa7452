"""RMSNorm and add + RMSNorm over the last axis, for training and inference.

    total = x + residual                       (x itself without a residual)
    normed = weight * round(total / sqrt(mean_j total_j^2 + eps))

Squares are summed in fp32; `round` is to the operands' dtype, twice, as Hugging Face's Llama does.
RMSNorm reads and writes rows * hidden values once, add + RMSNorm reads and writes both of its
tensors once. Training keeps one float32 for each row besides. Knows nothing of layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.base.checks import (
    FLOATS,
    check_dtype,
    check_output,
    check_same_device,
    check_same_dtype,
    check_shape,
    rows_contiguous,
    wants_gradient,
)
from kernels.base.dispatch import choose_backend
from kernels.base.variant import Cost
from kernels.layers.norm_backward import rms_norm_backward
from kernels.layers.norm_forward import add_rms_norm_forward, launch_rms_norm, rms_norm_forward

MAX_HIDDEN = 32_768  # one program holds a whole row in registers


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The formula in plain torch; shapes as in `rms_norm`, float64 is kept."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    unit = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    return (weight * unit.to(x.dtype)).to(x.dtype)


def add_rms_norm_reference(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The formula in plain torch; shapes as in `add_rms_norm`."""
    total = residual + x
    return rms_norm_reference(total, weight, eps), total


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        normed, rstd = rms_norm_forward(x, weight, eps, True)
        ctx.save_for_backward(x, weight, rstd)
        return normed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, rstd = ctx.saved_tensors
        return *_gradients(ctx.needs_input_grad[1], gradient, None, x, weight, rstd), None


class _AddRmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        normed, total, rstd = add_rms_norm_forward(x, residual, weight, eps, True)
        ctx.save_for_backward(total, weight, rstd)
        return normed, total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, total_gradient: Tensor) -> tuple[Tensor | None, ...]:
        total, weight, rstd = ctx.saved_tensors
        dx, dw = _gradients(ctx.needs_input_grad[2], gradient, total_gradient, total, weight, rstd)
        return dx, dx, dw, None


def _gradients(
    with_weight: bool,
    gradient: Tensor,
    total_gradient: Tensor | None,
    x: Tensor,
    weight: Tensor,
    rstd: Tensor,
) -> tuple[Tensor, Tensor | None]:
    added = None if total_gradient is None else rows_contiguous(total_gradient)
    dx, dw = rms_norm_backward(rows_contiguous(gradient), added, x, weight, rstd, with_weight)
    return dx, dw if with_weight else None


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, *, backend: str = "auto", out: Tensor | None = None
) -> Tensor:
    """Normed rows of `x` (..., hidden) by `weight` (hidden,), in the shape and dtype of `x`.

    hidden <= 32768; float32, bfloat16 or float16 each. Differentiable, once. `out` saves the
    allocation where no gradient is wanted; it may be `x`. Raises ValueError or TypeError naming the
    operand, and BackendUnavailableError as `choose_backend` does.
    """
    check_norm_operands(x, weight)
    if out is not None:
        check_output("out", out, x, x.shape)
    if choose_backend(backend, x) == "torch":
        normed = rms_norm_reference(x, weight, eps)
        return normed if out is None else out.copy_(normed)
    rows, weight = rows_contiguous(x).reshape(-1, x.shape[-1]), weight.contiguous()
    if out is not None:
        launch_rms_norm(out.view(rows.shape), None, None, rows, None, weight, eps)
        return out
    if wants_gradient(x, weight):
        normed = _RmsNorm.apply(rows, weight, eps)  # type: ignore[no-untyped-call]
    else:
        normed, _ = rms_norm_forward(rows, weight, eps, False)
    return normed.view(x.shape)


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """(normed rows of the sum, the sum `x + residual`): both (..., hidden) like `x`, `residual`.

    Limits, gradients and errors as in `rms_norm`.
    """
    check_norm_operands(x, weight)
    check_shape("residual", residual, x.shape)
    check_same_dtype(x=x, residual=residual)
    check_same_device(x=x, residual=residual)
    if choose_backend(backend, x) == "torch":
        return add_rms_norm_reference(x, residual, weight, eps)
    rows, added = (rows_contiguous(t).reshape(-1, x.shape[-1]) for t in (x, residual))
    weight = weight.contiguous()
    if wants_gradient(x, residual, weight):
        normed, total = _AddRmsNorm.apply(rows, added, weight, eps)  # type: ignore[no-untyped-call]
    else:
        normed, total, _ = add_rms_norm_forward(rows, added, weight, eps, False)
    return normed.view(x.shape), total.view(x.shape)


def check_norm_operands(x: Tensor, weight: Tensor) -> None:
    """Raises what `rms_norm` promises; shared by the norms that quantize."""
    check_dtype("x", x, FLOATS)
    if x.ndim == 0 or not 1 <= x.shape[-1] <= MAX_HIDDEN:
        raise ValueError(f"x has shape {tuple(x.shape)}; its last axis must have 1 to {MAX_HIDDEN}")
    check_shape("weight", weight, (x.shape[-1],))
    check_dtype("weight", weight, FLOATS)
    check_same_device(x=x, weight=weight)


def cost(rows: int, hidden_size: int, element_size: int, *, add: bool, backward: bool) -> Cost:
    """Forward, or backward without forward; `add` with the residual."""
    tensors = (3 if backward else 2) + (1 if add and backward else 2 if add else 0)
    values = rows * hidden_size
    return Cost(bytes=tensors * values * element_size, flops=(9 if backward else 4) * values)
