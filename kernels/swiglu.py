"""SwiGLU and GeGLU: the product of one half of an MLP's inner values with the other's activation.

    out = act(gate) * up
    act(x) = x * sigmoid(x)                                              SwiGLU
    act(x) = x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))       GeGLU, GELU's tanh form

fp32 inside, one rounding at the end. Moves 3 * rows * inner values, and 5 on the way back, where
the activation is computed anew: training keeps the operands only. Both come in two forms, of two
tensors and of one that holds the gate's half before the other's. Knows no products of matrices.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
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
from kernels.layers.swiglu_kernel import (
    gated,
    gated_backward,
    launch_gated,
    packed,
    packed_backward,
)


def swiglu_reference(gate: Tensor, up: Tensor) -> Tensor:
    """The formula in plain torch; shapes as in `swiglu`."""
    return _reference(gate, up, tanh=False)


def geglu_reference(gate: Tensor, up: Tensor) -> Tensor:
    """The formula in plain torch; shapes as in `geglu`."""
    return _reference(gate, up, tanh=True)


def _reference(gate: Tensor, up: Tensor, *, tanh: bool) -> Tensor:
    wide = torch.promote_types(gate.dtype, torch.float32)
    x = gate.to(wide)
    active = F.gelu(x, approximate="tanh") if tanh else F.silu(x)
    return (active * up.to(wide)).to(gate.dtype)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, tanh: bool) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.tanh = tanh
        return gated(gate, up, tanh)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        return *gated_backward(rows_contiguous(gradient), gate, up, ctx.tanh), None


class _Packed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor, tanh: bool) -> Tensor:
        ctx.save_for_backward(gate_up)
        ctx.tanh = tanh
        return packed(gate_up, tanh)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (gate_up,) = ctx.saved_tensors
        return packed_backward(rows_contiguous(gradient), gate_up, ctx.tanh), None


def swiglu(gate: Tensor, up: Tensor, *, out: Tensor | None = None, backend: str = "auto") -> Tensor:
    """silu(gate) * up of two tensors (..., inner), in their shape and dtype.

    float32, bfloat16 or float16; rows of any stride. `out`, without gradients, may be `gate` or
    `up`. Differentiable, once. Raises ValueError or TypeError naming the operand, and
    BackendUnavailableError as `choose_backend` does.
    """
    return _two(gate, up, False, out, backend)


def geglu(gate: Tensor, up: Tensor, *, out: Tensor | None = None, backend: str = "auto") -> Tensor:
    """gelu(gate) * up, by GELU's tanh form; all else as in `swiglu`."""
    return _two(gate, up, True, out, backend)


def swiglu_packed(gate_up: Tensor, *, out: Tensor | None = None, backend: str = "auto") -> Tensor:
    """silu(gate) * up of the halves (gate, up) of one tensor (..., 2 * inner): (..., inner).

    The gradient is one tensor as well. All else as in `swiglu`.
    """
    return _one(gate_up, False, out, backend)


def geglu_packed(gate_up: Tensor, *, out: Tensor | None = None, backend: str = "auto") -> Tensor:
    """gelu(gate) * up, by GELU's tanh form; all else as in `swiglu_packed`."""
    return _one(gate_up, True, out, backend)


def _two(gate: Tensor, up: Tensor, tanh: bool, out: Tensor | None, backend: str) -> Tensor:
    _check("gate", gate)
    check_shape("up", up, gate.shape)
    check_same_dtype(gate=gate, up=up)
    check_same_device(gate=gate, up=up)
    if out is not None:
        check_output("out", out, gate, gate.shape)
    if choose_backend(backend, gate) == "torch":
        result = _reference(gate, up, tanh=tanh)
        return result if out is None else out.copy_(result)
    gates, ups = _rows(gate), _rows(up)
    if out is not None:
        launch_gated(out.view(gates.shape), gates, ups, tanh)
        return out
    run = _Gated.apply if wants_gradient(gate, up) else gated
    return run(gates, ups, tanh).view(gate.shape)


def _one(gate_up: Tensor, tanh: bool, out: Tensor | None, backend: str) -> Tensor:
    check_packed(gate_up)
    shape = (*gate_up.shape[:-1], gate_up.shape[-1] // 2)
    if out is not None:
        check_output("out", out, gate_up, shape)
    gate, up = gate_up.chunk(2, dim=-1)
    if choose_backend(backend, gate_up) == "torch":
        result = _reference(gate, up, tanh=tanh)
        return result if out is None else out.copy_(result)
    if out is not None:
        return _two(gate, up, tanh, out, backend)
    run = _Packed.apply if wants_gradient(gate_up) else packed
    return run(_rows(gate_up), tanh).view(shape)


def _rows(x: Tensor) -> Tensor:
    return rows_contiguous(x).reshape(-1, x.shape[-1])


def _check(name: str, operand: Tensor) -> None:
    check_dtype(name, operand, FLOATS)
    if operand.ndim == 0 or operand.shape[-1] == 0:
        raise ValueError(f"{name} has shape {tuple(operand.shape)}; its last axis must have values")


def check_packed(gate_up: Tensor) -> None:
    """Raises what `swiglu_packed` promises; shared by the unit that quantizes."""
    _check("gate_up", gate_up)
    if gate_up.shape[-1] % 2:
        raise ValueError(f"gate_up has shape {tuple(gate_up.shape)}; its last axis must be even")


def cost(rows: int, inner_size: int, element_size: int, *, backward: bool) -> Cost:
    """Forward, or backward without forward."""
    values = rows * inner_size
    return Cost(
        bytes=(5 if backward else 3) * values * element_size, flops=(14 if backward else 6) * values
    )
