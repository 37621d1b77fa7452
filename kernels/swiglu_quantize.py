"""SwiGLU of one packed tensor, quantized to eight bits with one scale for each row.

    values, scales = quantize_rows(silu(gate) * up)

The unit is rounded as `swiglu` rounds it, then scaled as `quantize` says, so that the result is
that of both in turn. A program holds a whole row. Moves 5 bytes a value in bf16, where the two in
turn move 9. Knows nothing of the product that follows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.base.checks import rows_contiguous
from kernels.base.dispatch import Operator, choose_backend, jit, tl, triton
from kernels.base.variant import Cost, Variant
from kernels.eight_bits.quantize import (
    LIMITS,
    TARGETS,
    check_target,
    empty_rows,
    quantize_rows_reference,
    store_quantized,
)
from kernels.swiglu import check_packed, swiglu_reference

MAX_INNER = 32_768  # one program holds a whole row in registers


def swiglu_quantize_reference(gate_up: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The formula in plain torch; shapes as in `swiglu_quantize`."""
    return quantize_rows_reference(swiglu_reference(*gate_up.chunk(2, dim=-1)), dtype)


@jit
def _swiglu_quantize_kernel(
    values_ptr: tl.tensor,
    values_stride: int,
    scales_ptr: tl.tensor,
    gate_up_ptr: tl.tensor,
    gate_up_stride: int,
    inner_size: int,
    LIMIT: tl.constexpr,
    BLOCK_INNER: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    columns = tl.arange(0, BLOCK_INNER)
    inside = (columns < inner_size)[None, :]
    at_gate = gate_up_ptr + row[:, None] * gate_up_stride + columns[None, :]
    gate = tl.load(at_gate, inside, 0.0).to(tl.float32)
    up = tl.load(at_gate + inner_size, inside, 0.0).to(tl.float32)
    unit = (gate * tl.sigmoid(gate) * up).to(gate_up_ptr.dtype.element_ty).to(tl.float32)
    known = row >= 0  # each program has one
    store_quantized(values_ptr, values_stride, scales_ptr, unit, row, columns, known, inside, LIMIT)


def _launch_swiglu_quantize(values: Tensor, scales: Tensor, gate_up: Tensor) -> None:
    """Rows, last axes contiguous."""
    if not values.numel():
        return
    sizes, num_warps = block_sizes(values.shape[1])
    _swiglu_quantize_kernel[(len(values),)](
        values,
        values.stride(0),
        scales,
        gate_up,
        gate_up.stride(0),
        values.shape[1],
        LIMIT=LIMITS[values.dtype],
        **sizes,
        num_warps=num_warps,
    )


def block_sizes(inner_size: int) -> tuple[dict[str, int], int]:
    """Compile-time size and warps of the program that holds a row."""
    width = triton.next_power_of_2(inner_size)
    return {"BLOCK_INNER": width}, min(32, max(4, width // 1024))


def _quantized(gate_up: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    values, scales = _quantized_fake(gate_up, dtype)
    _launch_swiglu_quantize(values, scales, gate_up)
    return values, scales


def _quantized_fake(gate_up: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return empty_rows(len(gate_up), gate_up.shape[1] // 2, dtype, gate_up)


_swiglu_quantize = Operator("fairslate::swiglu_quantize", _quantized, _quantized_fake)


def swiglu_quantize(
    gate_up: Tensor, dtype: torch.dtype, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """(values, scales) of gate and up, the halves of `gate_up` (..., 2 * inner), inner <= 32768.

    values (..., inner) are int8 or float8_e4m3fn, scales (...) float32. Not differentiable. Errors
    as in `swiglu_packed`; TypeError for another `dtype`, UnsupportedDeviceError on old GPUs.
    """
    check_packed(gate_up)
    check_target(dtype, gate_up.device)
    inner = gate_up.shape[-1] // 2
    if inner > MAX_INNER:
        raise ValueError(f"gate_up has {inner} inner values a row; pass up to {MAX_INNER}")
    if choose_backend(backend, gate_up) == "torch":
        return swiglu_quantize_reference(gate_up, dtype)
    rows = rows_contiguous(gate_up).reshape(-1, 2 * inner)
    values, scales = _swiglu_quantize(rows, dtype)
    return values.view(*gate_up.shape[:-1], inner), scales.view(gate_up.shape[:-1])


def cost(rows: int, inner_size: int, element_size: int) -> Cost:
    """Two values of the operand's size read and one of eight bits written, for each inner value."""
    values = rows * inner_size
    return Cost(bytes=(2 * element_size + 1) * values + 4 * rows, flops=10 * values)


def variants() -> list[Variant]:
    """Both targets at the inner sizes of Qwen3-0.6B, Qwen3-1.7B and Llama-3.2-1B."""
    return [variant(target, inner_size) for target in TARGETS for inner_size in (3072, 6144)]


def variant(target: str, inner_size: int) -> Variant:
    """One compilation for bf16 operands; `target` is Triton's: "i8" or "fp8e4nv"."""
    sizes, num_warps = block_sizes(inner_size)
    constants = {"LIMIT": TARGETS[target]} | sizes
    signature = {
        "values_ptr": f"*{target}",
        "values_stride": "i32",
        "scales_ptr": "*fp32",
        "gate_up_ptr": "*bf16",
        "gate_up_stride": "i32",
        "inner_size": "i32",
    } | dict.fromkeys(constants, "constexpr")
    label = f"I={inner_size} {target}"
    return Variant(_swiglu_quantize_kernel, signature, constants, num_warps, shape=label)
