"""LayerNorm over the last axis, for training and inference.

    normed = (x - mean) / sqrt(mean_j (x_j - mean)^2 + eps) * weight + bias

fp32 inside, the variance of the centred row, one rounding at the end. Moves 2 * rows * hidden
values, 3 on the way back; training keeps two float32 for each row. Knows nothing of layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.base.checks import (
    FLOATS,
    check_dtype,
    check_same_device,
    check_shape,
    rows_contiguous,
    wants_gradient,
)
from kernels.base.dispatch import choose_backend
from kernels.base.variant import Cost
from kernels.layers.layer_norm_kernel import MAX_HIDDEN, layer_norm_backward, layer_norm_forward


def layer_norm_reference(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """The formula in plain torch; shapes as in `layer_norm`, float64 is kept."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    wide = x.to(dtype)
    centred = wide - wide.mean(dim=-1, keepdim=True)
    unit = centred * torch.rsqrt(centred.square().mean(dim=-1, keepdim=True) + eps)
    scaled = unit * weight.to(dtype)
    return (scaled if bias is None else scaled + bias.to(dtype)).to(x.dtype)


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        normed, mean, rstd = layer_norm_forward(x, weight, bias, eps, True)
        ctx.save_for_backward(x, weight, mean, rstd)
        return normed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        dx, dw, db = layer_norm_backward(
            rows_contiguous(gradient), x, weight, mean, rstd, wanted[1] or wanted[2]
        )
        return dx, dw if wanted[1] else None, db if wanted[2] else None, None


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, *, backend: str = "auto"
) -> Tensor:
    """Normed rows of `x` (..., hidden) by `weight` and `bias` (hidden,), in its shape and dtype.

    hidden <= 32768; float32, bfloat16 or float16 each, weight and bias alike. Differentiable, once.
    Raises ValueError or TypeError naming the operand, and BackendUnavailableError as
    `choose_backend` does.
    """
    _check(x, weight, bias)
    if choose_backend(backend, x) == "torch":
        return layer_norm_reference(x, weight, bias, eps)
    rows, weight = rows_contiguous(x).reshape(-1, x.shape[-1]), weight.contiguous()
    shift = None if bias is None else bias.contiguous()
    if wants_gradient(x, weight) or (bias is not None and wants_gradient(bias)):
        normed = _LayerNorm.apply(rows, weight, shift, eps)  # type: ignore[no-untyped-call]
    else:
        normed, _, _ = layer_norm_forward(rows, weight, shift, eps, False)
    return normed.view(x.shape)  # type: ignore[no-any-return]


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    check_dtype("x", x, FLOATS)
    if x.ndim == 0 or not 1 <= x.shape[-1] <= MAX_HIDDEN:
        raise ValueError(f"x has shape {tuple(x.shape)}; its last axis must have 1 to {MAX_HIDDEN}")
    check_dtype("weight", weight, FLOATS)
    operands = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    for name, operand in operands.items():
        check_shape(name, operand, (x.shape[-1],))
        check_dtype(name, operand, (weight.dtype,))
    check_same_device(x=x, **operands)


def cost(rows: int, hidden_size: int, element_size: int, *, backward: bool) -> Cost:
    """Forward, or backward without forward."""
    values, (tensors, flops) = rows * hidden_size, (3, 14) if backward else (2, 8)
    return Cost(bytes=tensors * values * element_size, flops=flops * values)
