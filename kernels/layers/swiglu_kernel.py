"""The kernels of gated units, forward and backward, over rows in pieces. Knows nothing of layers.

Both activations are gate * sigmoid(s): s = gate for SiLU, and for GELU's tanh form, by
(1 + tanh z) / 2 = sigmoid(2 z), s = 2 sqrt(2 / pi) (gate + 0.044715 gate^3).
"""

from __future__ import annotations

from torch import Tensor

from kernels.base.dispatch import Operator, jit, tl, triton
from kernels.base.variant import Variant

BLOCK = 1024  # 16 bytes of bf16 for each thread and operand
WARPS = 4


@jit
def sigmoid_argument(gate: tl.tensor, TANH: tl.constexpr) -> tl.tensor:
    """s of the formulas above."""
    if TANH:
        return 1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)
    return gate


@jit
def piece_of_row(
    pieces: int, inner_size: int, BLOCK: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """(row, columns, which of them exist) of this program."""
    program = tl.program_id(0)
    columns = (program % pieces) * BLOCK + tl.arange(0, BLOCK)
    return (program // pieces).to(tl.int64), columns, columns < inner_size


@jit
def _gated_kernel(
    out_ptr: tl.tensor,
    out_stride: int,
    gate_ptr: tl.tensor,
    gate_stride: int,
    up_ptr: tl.tensor,
    up_stride: int,
    pieces: int,
    inner_size: int,
    TANH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row, columns, inside = piece_of_row(pieces, inner_size, BLOCK)
    gate = tl.load(gate_ptr + row * gate_stride + columns, inside, 0.0).to(tl.float32)
    up = tl.load(up_ptr + row * up_stride + columns, inside, 0.0).to(tl.float32)
    out = gate * tl.sigmoid(sigmoid_argument(gate, TANH)) * up
    tl.store(out_ptr + row * out_stride + columns, out.to(out_ptr.dtype.element_ty), inside)


@jit
def _gated_backward_kernel(
    d_gate_ptr: tl.tensor,
    d_gate_stride: int,
    d_up_ptr: tl.tensor,
    d_up_stride: int,
    gradient_ptr: tl.tensor,
    gradient_stride: int,
    gate_ptr: tl.tensor,
    gate_stride: int,
    up_ptr: tl.tensor,
    up_stride: int,
    pieces: int,
    inner_size: int,
    TANH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row, columns, inside = piece_of_row(pieces, inner_size, BLOCK)
    gate = tl.load(gate_ptr + row * gate_stride + columns, inside, 0.0).to(tl.float32)
    up = tl.load(up_ptr + row * up_stride + columns, inside, 0.0).to(tl.float32)
    at_gradient = gradient_ptr + row * gradient_stride + columns
    gradient = tl.load(at_gradient, inside, 0.0).to(tl.float32)
    # 1 - sigmoid(s) as exp(-s) sigmoid(s), since the difference would lose digits to cancellation.
    power = tl.exp(tl.minimum(-sigmoid_argument(gate, TANH), 88.0))
    weight = 1.0 / (1.0 + power)
    rest = power * weight
    slope = 1.0
    if TANH:
        slope = 1.5957691216057308 * (1.0 + 0.134145 * gate * gate)
    # (gate * sigmoid(s))' = sigmoid(s) (1 + gate (1 - sigmoid(s)) s')
    d_gate = gradient * up * weight * (1.0 + gate * rest * slope)
    d_up = gradient * gate * weight
    at_gate, at_up = row * d_gate_stride + columns, row * d_up_stride + columns
    tl.store(d_gate_ptr + at_gate, d_gate.to(d_gate_ptr.dtype.element_ty), inside)
    tl.store(d_up_ptr + at_up, d_up.to(d_up_ptr.dtype.element_ty), inside)


def launch_gated(out: Tensor, gate: Tensor, up: Tensor, tanh: bool) -> None:
    """Rows by inner size, last axes contiguous; `out` may be one of the others."""
    rows, inner_size = gate.shape
    if not gate.numel():
        return
    pieces = triton.cdiv(inner_size, BLOCK)
    _gated_kernel[(rows * pieces,)](
        out,
        out.stride(0),
        gate,
        gate.stride(0),
        up,
        up.stride(0),
        pieces,
        inner_size,
        TANH=tanh,
        BLOCK=BLOCK,
        num_warps=WARPS,
    )


def launch_gated_backward(
    d_gate: Tensor, d_up: Tensor, gradient: Tensor, gate: Tensor, up: Tensor, tanh: bool
) -> None:
    """Rows by inner size, last axes contiguous."""
    rows, inner_size = gate.shape
    if not gate.numel():
        return
    pieces = triton.cdiv(inner_size, BLOCK)
    _gated_backward_kernel[(rows * pieces,)](
        d_gate,
        d_gate.stride(0),
        d_up,
        d_up.stride(0),
        gradient,
        gradient.stride(0),
        gate,
        gate.stride(0),
        up,
        up.stride(0),
        pieces,
        inner_size,
        TANH=tanh,
        BLOCK=BLOCK,
        num_warps=WARPS,
    )


def _gated(gate: Tensor, up: Tensor, tanh: bool) -> Tensor:
    out = gate.new_empty(gate.shape)
    launch_gated(out, gate, up, tanh)
    return out


def _gated_fake(gate: Tensor, up: Tensor, tanh: bool) -> Tensor:
    return gate.new_empty(gate.shape)


def _gated_backward(
    gradient: Tensor, gate: Tensor, up: Tensor, tanh: bool
) -> tuple[Tensor, Tensor]:
    d_gate, d_up = _gated_backward_fake(gradient, gate, up, tanh)
    launch_gated_backward(d_gate, d_up, gradient, gate, up, tanh)
    return d_gate, d_up


def _gated_backward_fake(
    gradient: Tensor, gate: Tensor, up: Tensor, tanh: bool
) -> tuple[Tensor, Tensor]:
    return gate.new_empty(gate.shape), up.new_empty(up.shape)


def _packed(gate_up: Tensor, tanh: bool) -> Tensor:
    out = _packed_fake(gate_up, tanh)
    gate, up = gate_up.chunk(2, dim=1)
    launch_gated(out, gate, up, tanh)
    return out


def _packed_fake(gate_up: Tensor, tanh: bool) -> Tensor:
    return gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)


def _packed_backward(gradient: Tensor, gate_up: Tensor, tanh: bool) -> Tensor:
    d_gate_up = _packed_backward_fake(gradient, gate_up, tanh)
    d_gate, d_up = d_gate_up.chunk(2, dim=1)
    gate, up = gate_up.chunk(2, dim=1)
    launch_gated_backward(d_gate, d_up, gradient, gate, up, tanh)
    return d_gate_up


def _packed_backward_fake(gradient: Tensor, gate_up: Tensor, tanh: bool) -> Tensor:
    return gate_up.new_empty(gate_up.shape)


gated = Operator("fairslate::gated", _gated, _gated_fake)
gated_backward = Operator("fairslate::gated_backward", _gated_backward, _gated_backward_fake)
packed = Operator("fairslate::gated_packed", _packed, _packed_fake)
packed_backward = Operator(
    "fairslate::gated_packed_backward", _packed_backward, _packed_backward_fake
)


def variants() -> list[Variant]:
    """Both units and both directions; the inner size is no part of a compilation."""
    return [
        variant(dtype, tanh=tanh, backward=backward)
        for dtype in ("bf16", "fp32")
        for tanh in (False, True)
        for backward in (False, True)
    ]


def variant(dtype: str, *, tanh: bool, backward: bool) -> Variant:
    """One compilation; `dtype` is Triton's: "fp32", "bf16" or "fp16"."""
    names = ("d_gate", "d_up", "gradient", "gate", "up") if backward else ("out", "gate", "up")
    constants = {"TANH": tanh, "BLOCK": BLOCK}
    signature: dict[str, str] = {}
    for name in names:
        signature |= {f"{name}_ptr": f"*{dtype}", f"{name}_stride": "i32"}
    signature |= {"pieces": "i32", "inner_size": "i32"} | dict.fromkeys(constants, "constexpr")
    kernel = _gated_backward_kernel if backward else _gated_kernel
    return Variant(
        kernel, signature, constants, WARPS, shape=f"{'GELU' if tanh else 'SiLU'} {dtype}"
    )
