"""The kernel of RMSNorm and of add + RMSNorm: whole rows in registers, each read once.

Squares are summed in fp32; the normed row is rounded to the operands' dtype before the weight and
after it. With the sum, the row that is normed is the one that was rounded and stored. Knows nothing
of gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.base.dispatch import Operator, jit, tl, triton
from kernels.base.variant import Variant

TILE = 4096  # values one program of four warps holds


@jit
def norm_tile(
    x: tl.tensor, weight: tl.tensor, eps: float, hidden_size: int, dtype: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """(rows of an fp32 tile, normed and of `dtype`; their fp32 factors)."""
    rstd = tl.rsqrt(tl.sum(x * x, axis=1) / hidden_size + eps)
    unit = (x * rstd[:, None]).to(dtype).to(tl.float32)
    return (unit * weight[None, :]).to(dtype), rstd


@jit
def _rms_norm_kernel(
    normed_ptr: tl.tensor,
    normed_stride: int,
    rstd_ptr: tl.tensor,
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
    WITH_RSTD: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
) -> None:
    row = (tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)).to(tl.int64)
    columns = tl.arange(0, BLOCK_HIDDEN)
    in_row = columns < hidden_size
    inside = (row < rows)[:, None] & in_row[None, :]
    x = tl.load(x_ptr + row[:, None] * x_stride + columns[None, :], inside, 0.0).to(tl.float32)
    if ADD:
        at_residual = residual_ptr + row[:, None] * residual_stride + columns[None, :]
        residual = tl.load(at_residual, inside, 0.0).to(tl.float32)
        total = (x + residual).to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + row[:, None] * total_stride + columns[None, :], total, inside)
        x = total.to(tl.float32)  # the sum that later layers see
    weight = tl.load(weight_ptr + columns, in_row, 0.0).to(tl.float32)
    normed, rstd = norm_tile(x, weight, eps, hidden_size, normed_ptr.dtype.element_ty)
    tl.store(normed_ptr + row[:, None] * normed_stride + columns[None, :], normed, inside)
    if WITH_RSTD:
        tl.store(rstd_ptr + row, rstd, row < rows)


def launch_rms_norm(
    normed: Tensor,
    rstd: Tensor | None,
    total: Tensor | None,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    eps: float,
) -> None:
    """Rows by hidden, last axes contiguous; `total` comes with `residual`, `rstd` for training."""
    rows, hidden_size = x.shape
    if not x.numel():
        return
    sizes, num_warps = block_sizes(hidden_size)
    added, summed = (x, x) if residual is None or total is None else (residual, total)
    _rms_norm_kernel[(triton.cdiv(rows, sizes["BLOCK_ROWS"]),)](
        normed,
        normed.stride(0),
        weight if rstd is None else rstd,
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
        WITH_RSTD=rstd is not None,
        **sizes,
        num_warps=num_warps,
    )


def block_sizes(hidden_size: int) -> tuple[dict[str, int], int]:
    """Compile-time sizes and warps: narrow rows share a program, wide ones get more warps."""
    width = triton.next_power_of_2(hidden_size)
    sizes = {"BLOCK_ROWS": max(1, TILE // width), "BLOCK_HIDDEN": width}
    return sizes, min(32, max(4, width // 1024))


def _normed(x: Tensor, weight: Tensor, eps: float, with_rstd: bool) -> tuple[Tensor, Tensor]:
    normed, rstd = _normed_fake(x, weight, eps, with_rstd)
    launch_rms_norm(normed, rstd if with_rstd else None, None, x, None, weight, eps)
    return normed, rstd


def _normed_fake(x: Tensor, weight: Tensor, eps: float, with_rstd: bool) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(len(x) if with_rstd else 0, dtype=torch.float32)


def _summed(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, with_rstd: bool
) -> tuple[Tensor, Tensor, Tensor]:
    normed, total, rstd = _summed_fake(x, residual, weight, eps, with_rstd)
    launch_rms_norm(normed, rstd if with_rstd else None, total, x, residual, weight, eps)
    return normed, total, rstd


def _summed_fake(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, with_rstd: bool
) -> tuple[Tensor, Tensor, Tensor]:
    normed, rstd = _normed_fake(x, weight, eps, with_rstd)
    return normed, x.new_empty(x.shape), rstd


rms_norm_forward = Operator("fairslate::rms_norm", _normed, _normed_fake)
add_rms_norm_forward = Operator("fairslate::add_rms_norm", _summed, _summed_fake)


def variants() -> list[Variant]:
    """Both norms at the widths of the hidden state and of one head."""
    return [
        variant(dtype, hidden_size, add)
        for dtype in ("bf16", "fp32")
        for hidden_size in (64, 128, 1024, 2048, 8192)
        for add in (False, True)
        if not (hidden_size <= 128 and add)
    ]


def variant(dtype: str, hidden_size: int, add: bool) -> Variant:
    """One compilation; `dtype` is Triton's: "fp32", "bf16" or "fp16"."""
    sizes, num_warps = block_sizes(hidden_size)
    constants = {"ADD": add, "WITH_RSTD": True} | sizes
    operand = f"*{dtype}"
    signature = {
        "normed_ptr": operand,
        "normed_stride": "i32",
        "rstd_ptr": "*fp32",
        "total_ptr": operand,
        "total_stride": "i32",
        "x_ptr": operand,
        "x_stride": "i32",
        "residual_ptr": operand,
        "residual_stride": "i32",
        "weight_ptr": operand,
        "eps": "fp32",
        "rows": "i32",
        "hidden_size": "i32",
    } | dict.fromkeys(constants, "constexpr")
    label = f"H={hidden_size} {dtype}{' add' if add else ''}"
    return Variant(_rms_norm_kernel, signature, constants, num_warps, shape=label)
