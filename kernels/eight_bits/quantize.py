"""Rows to eight bits with one scale each, as every kernel here that writes eight bits does it.

    scale = max(max_j |x_j|, 1e-12) / limit        limit = 127 (int8), 448 (float8_e4m3fn)
    value = round(x * (1 / scale)), half to even

Two divisions a row, by IEEE's rule, and one rounded product a value: a kernel and the reference
agree bit for bit, and no value waits for a division. Knows nothing of where rows come from or what
multiplies them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.base.checks import UnsupportedDeviceError, check_capability
from kernels.base.dispatch import jit, tl

LIMITS = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
FP8_CAPABILITY = (8, 9)
SMALLEST = 1e-12  # keeps the scale of a row of zeros above zero
TARGETS = {"i8": LIMITS[torch.int8], "fp8e4nv": LIMITS[torch.float8_e4m3fn]}  # as Triton says it

__all__ = [
    "LIMITS",
    "TARGETS",
    "UnsupportedDeviceError",
    "check_target",
    "empty_rows",
    "quantize_rows_reference",
]


def check_target(dtype: torch.dtype, device: torch.device) -> None:
    """TypeError for a dtype without a limit, UnsupportedDeviceError for fp8 below sm_89."""
    if dtype not in LIMITS:
        raise TypeError(f"dtype is {dtype}; pass torch.int8 or torch.float8_e4m3fn")
    if dtype.is_floating_point:
        check_capability("float8_e4m3fn", device, FP8_CAPABILITY)


def quantize_rows_reference(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The formula in plain torch: (..., n) to values (..., n) of `dtype` and scales (...) fp32."""
    wide = rows.float()
    largest = wide.abs().amax(dim=-1).clamp_min(SMALLEST)
    # By a tensor: on CUDA torch divides by a number as it multiplies by the rounded reciprocal.
    scales = largest / torch.full_like(largest, LIMITS[dtype])
    scaled = wide * (torch.ones_like(scales) / scales).unsqueeze(-1)
    return (scaled if dtype.is_floating_point else scaled.round()).to(dtype), scales


def empty_rows(rows: int, width: int, dtype: torch.dtype, like: Tensor) -> tuple[Tensor, Tensor]:
    """Values (rows, width) of `dtype` and scales (rows,) to fill, where `like` lies."""
    return like.new_empty((rows, width), dtype=dtype), like.new_empty(rows, dtype=torch.float32)


@jit
def quantize_tile(tile: tl.tensor, LIMIT: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """(scaled and, for int8, rounded rows of an fp32 tile, their scales); the caller casts."""
    scales = tl.div_rn(tl.maximum(tl.max(tl.abs(tile), axis=1), 1e-12), LIMIT)
    scaled = tile * tl.div_rn(1.0, scales)[:, None]
    if LIMIT == 127.0:
        # At 1.5 * 2^23 fp32 holds whole numbers only, and addition rounds half to even. The bound
        # keeps it apart from the product: fused into one instruction they would round once.
        scaled = (tl.minimum(scaled, LIMIT) + 12582912.0) - 12582912.0
    return scaled, scales


@jit
def store_quantized(
    values_ptr: tl.tensor,
    values_stride: int,
    scales_ptr: tl.tensor,
    tile: tl.tensor,
    row: tl.tensor,
    columns: tl.tensor,
    known: tl.tensor,
    inside: tl.tensor,
    LIMIT: tl.constexpr,
) -> None:
    """Writes an fp32 tile in eight bits and its scales: rows `known`, and what is `inside`."""
    values, scales = quantize_tile(tile, LIMIT)
    outputs = values_ptr + row[:, None] * values_stride + columns[None, :]
    tl.store(outputs, values.to(values_ptr.dtype.element_ty), inside)
    tl.store(scales_ptr + row, scales, known)
