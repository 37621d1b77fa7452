"""Activations to eight bits, one scale for each row, in one pass. Knows nothing of what follows.

    values, scales = quantize_rows(x)              as kernels.eight_bits.quantize defines them

for rows that no fused kernel has quantized already. Moves 3 bytes a value in bf16: read once,
written once; the row stays in registers between its largest value and its rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.base.checks import FLOATS, check_dtype
from kernels.base.checks import rows_contiguous as _rows_contiguous
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
from kernels.layers.norm_forward import block_sizes

MAX_WIDTH = 65_536


@jit
def _quantize_rows_kernel(
    values_ptr: tl.tensor,
    values_row_stride: int,
    scales_ptr: tl.tensor,
    x_ptr: tl.tensor,
    x_row_stride: int,
    rows: int,
    width_size: int,
    LIMIT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
) -> None:
    row = (tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)).to(tl.int64)
    columns = tl.arange(0, BLOCK_HIDDEN)
    known = row < rows
    inside = known[:, None] & (columns < width_size)[None, :]
    x = tl.load(x_ptr + row[:, None] * x_row_stride + columns[None, :], inside, 0.0)
    tile = x.to(tl.float32)
    store_quantized(
        values_ptr, values_row_stride, scales_ptr, tile, row, columns, known, inside, LIMIT
    )


def _launch(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x (rows, width), its last axis contiguous."""
    values, scales = _outputs(x, dtype)
    if x.numel() == 0:
        return values, scales
    sizes, num_warps = block_sizes(x.shape[1])
    _quantize_rows_kernel[(triton.cdiv(x.shape[0], sizes["BLOCK_ROWS"]),)](
        values,
        values.stride(0),
        scales,
        x,
        x.stride(0),
        *x.shape,
        LIMIT=LIMITS[dtype],
        **sizes,
        num_warps=num_warps,
    )
    return values, scales


def _outputs(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return empty_rows(x.shape[0], x.shape[1], dtype, x)


_launch_quantize_rows = Operator("fairslate::quantize_rows", _launch, _outputs)


def quantize_rows(x: Tensor, dtype: torch.dtype, *, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """Values (..., width) of `dtype`, int8 or float8_e4m3fn, and scales (...) fp32 of x.

    x is fp32, bf16 or fp16, up to 65,536 wide. Raises ValueError or TypeError naming the operand,
    UnsupportedDeviceError for fp8 below sm_89, BackendUnavailableError as `choose_backend` does.
    """
    check_dtype("x", x, FLOATS)
    check_target(dtype, x.device)
    if x.ndim == 0 or not 1 <= x.shape[-1] <= MAX_WIDTH:
        raise ValueError(f"x has shape {tuple(x.shape)}; its last axis must be 1 to {MAX_WIDTH}")
    if choose_backend(backend, x) == "torch":
        return quantize_rows_reference(x, dtype)
    rows = _rows_contiguous(x).reshape(-1, x.shape[-1])
    values, scales = _launch_quantize_rows(rows, dtype)
    return values.view(x.shape), scales.view(x.shape[:-1])


def cost(x: Tensor) -> Cost:
    """Each value read once and written in eight bits, a scale for each row."""
    return Cost(x.nbytes + x.numel() + 4 * x[..., 0].numel(), 3 * x.numel())


def variants() -> list[Variant]:
    """The widths that meet a linear layer: hidden and intermediate sizes."""
    widths = (1024, 2048, 3072, 8192)
    return [_variant(target, width) for target in TARGETS for width in widths]


def _variant(target: str, width: int) -> Variant:
    sizes, num_warps = block_sizes(width)
    constants = {"LIMIT": TARGETS[target], **sizes}
    signature = {
        "values_ptr": f"*{target}",
        "values_row_stride": "i32",
        "scales_ptr": "*fp32",
        "x_ptr": "*bf16",
        "x_row_stride": "i32",
        "rows": "i32",
        "width_size": "i32",
        **dict.fromkeys(constants, "constexpr"),
    }
    label = f"H={width} bf16 to {target}"
    return Variant(_quantize_rows_kernel, signature, constants, num_warps, shape=label)
