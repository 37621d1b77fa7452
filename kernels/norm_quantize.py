"""Add + RMSNorm + quantization to eight bits with one scale for each row: one read, one write.

    total = x + residual                           (x itself without a residual)
    values, scales = quantize_rows(rms_norm(total))

The normed row is rounded as `rms_norm` rounds it, then scaled as `quantize` says, so that the
scales are those of the three operations in turn. Moves 7 bytes a value in bf16 (x, residual, total
two each, values one) where the three move 11. Knows nothing of the product that follows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.base.checks import check_same_device, check_same_dtype, check_shape, rows_contiguous
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
from kernels.layers.norm_forward import block_sizes, norm_tile
from kernels.norm import check_norm_operands, rms_norm_reference


def add_rms_norm_quantize_reference(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The formula in plain torch; shapes as in `add_rms_norm_quantize`."""
    total = x if residual is None else residual + x
    return *quantize_rows_reference(rms_norm_reference(total, weight, eps), dtype), total


@jit
def _norm_quantize_kernel(
    values_ptr: tl.tensor,
    values_stride: int,
    scales_ptr: tl.tensor,
    total_ptr: tl.tensor,
    total_stride: int,
    x_ptr: tl.tensor,
    x_stride: int,
    residual_ptr: tl.tensor,
    residual_stride: int,
    weight_ptr: tl.tensor,
    eps: float,
    rows: int,
    hidden_size: int,
    ADD: tl.constexpr,
    LIMIT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
) -> None:
    row = (tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)).to(tl.int64)
    columns = tl.arange(0, BLOCK_HIDDEN)
    in_row = columns < hidden_size
    known = row < rows
    inside = known[:, None] & in_row[None, :]
    x = tl.load(x_ptr + row[:, None] * x_stride + columns[None, :], inside, 0.0).to(tl.float32)
    if ADD:
        at_residual = residual_ptr + row[:, None] * residual_stride + columns[None, :]
        residual = tl.load(at_residual, inside, 0.0).to(tl.float32)
        total = (x + residual).to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + row[:, None] * total_stride + columns[None, :], total, inside)
        x = total.to(tl.float32)  # the sum that later layers see
    weight = tl.load(weight_ptr + columns, in_row, 0.0).to(tl.float32)
    normed, _ = norm_tile(x, weight, eps, hidden_size, x_ptr.dtype.element_ty)
    tile = normed.to(tl.float32)
    store_quantized(values_ptr, values_stride, scales_ptr, tile, row, columns, known, inside, LIMIT)


def _launch_norm_quantize(
    values: Tensor,
    scales: Tensor,
    total: Tensor | None,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    eps: float,
) -> None:
    """Rows by hidden, last axes contiguous; `total` comes with `residual`."""
    rows, hidden_size = x.shape
    if not x.numel():
        return
    sizes, num_warps = block_sizes(hidden_size)
    added, summed = (x, x) if residual is None or total is None else (residual, total)
    _norm_quantize_kernel[(triton.cdiv(rows, sizes["BLOCK_ROWS"]),)](
        values,
        values.stride(0),
        scales,
        summed,
        summed.stride(0),
        x,
        x.stride(0),
        added,
        added.stride(0),
        weight,
        eps,
        rows,
        hidden_size,
        ADD=residual is not None,
        LIMIT=LIMITS[values.dtype],
        **sizes,
        num_warps=num_warps,
    )


def _quantized(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    values, scales, total = _quantized_fake(x, residual, weight, eps, dtype)
    _launch_norm_quantize(values, scales, total, x, residual, weight, eps)
    return values, scales, total


def _quantized_fake(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    total = x.new_empty(0 if residual is None else x.shape)
    return *empty_rows(x.shape[0], x.shape[1], dtype, x), total


_norm_quantize = Operator("fairslate::add_rms_norm_quantize", _quantized, _quantized_fake)


def add_rms_norm_quantize(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    eps: float,
    dtype: torch.dtype,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """(values, scales, total) of `x`, `residual` (..., hidden) and `weight` (hidden,).

    values (..., hidden) are int8 or float8_e4m3fn, scales (...) float32, total = x + residual has
    the dtype of `x` and is `x` when `residual` is None. Not differentiable. Limits and errors as in
    `rms_norm`; TypeError for another `dtype`, UnsupportedDeviceError for fp8 below sm_89.
    """
    check_norm_operands(x, weight)
    check_target(dtype, x.device)
    if residual is not None:
        check_shape("residual", residual, x.shape)
        check_same_dtype(x=x, residual=residual)
        check_same_device(x=x, residual=residual)
    if choose_backend(backend, x) == "torch":
        return add_rms_norm_quantize_reference(x, residual, weight, eps, dtype)
    rows = rows_contiguous(x).reshape(-1, x.shape[-1])
    added = None if residual is None else rows_contiguous(residual).reshape(rows.shape)
    values, scales, total = _norm_quantize(rows, added, weight.contiguous(), eps, dtype)
    total = x if residual is None else total.view(x.shape)
    return values.view(x.shape), scales.view(x.shape[:-1]), total


def cost(rows: int, hidden_size: int, element_size: int) -> Cost:
    """With a residual: three tensors of the operands' size and one of eight bits."""
    values = rows * hidden_size
    return Cost(bytes=(3 * element_size + 1) * values + 4 * rows, flops=8 * values)


def variants() -> list[Variant]:
    """Both targets at the widths of the hidden state."""
    return [
        variant(target, hidden_size, add)
        for target in TARGETS
        for hidden_size in (1024, 2048)
        for add in (True, False)
    ]


def variant(target: str, hidden_size: int, add: bool) -> Variant:
    """One compilation for bf16 operands; `target` is Triton's: "i8" or "fp8e4nv"."""
    sizes, num_warps = block_sizes(hidden_size)
    constants = {"ADD": add, "LIMIT": TARGETS[target]} | sizes
    signature = {
        "values_ptr": f"*{target}",
        "values_stride": "i32",
        "scales_ptr": "*fp32",
        "total_ptr": "*bf16",
        "total_stride": "i32",
        "x_ptr": "*bf16",
        "x_stride": "i32",
        "residual_ptr": "*bf16",
        "residual_stride": "i32",
        "weight_ptr": "*bf16",
        "eps": "fp32",
        "rows": "i32",
        "hidden_size": "i32",
    } | dict.fromkeys(constants, "constexpr")
    label = f"H={hidden_size} {target}{' add' if add else ''}"
    return Variant(_norm_quantize_kernel, signature, constants, num_warps, shape=label)
