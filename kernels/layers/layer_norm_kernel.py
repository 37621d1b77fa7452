"""The kernels of LayerNorm, forward and backward, without atomics. Knows nothing of autograd.

    unit = (x - mean) * rstd        wide = gradient * weight
    dx   = rstd * (wide - mean_j(wide_j) - unit * mean_j(wide_j * unit_j))
    dw   = sum over rows of gradient * unit                  db = sum over rows of gradient

Whole rows in registers. On the way back a few programs for each multiprocessor walk over the rows;
each leaves one row of partial sums, dw beside db, for `sum_partials`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.base.dispatch import Operator, jit, tl, triton
from kernels.base.variant import Variant
from kernels.layers.norm_backward import block_sizes as backward_block_sizes
from kernels.layers.norm_forward import block_sizes
from kernels.layers.partial_sums import partial_count, sum_partials

MAX_HIDDEN = 32_768  # one program holds a whole row in registers


@jit
def _layer_norm_kernel(
    normed_ptr: tl.tensor,
    normed_stride: int,
    mean_ptr: tl.tensor,
    rstd_ptr: tl.tensor,
    x_ptr: tl.tensor,
    x_stride: int,
    weight_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    eps: float,
    rows: int,
    hidden_size: int,
    WITH_BIAS: tl.constexpr,
    WITH_STATISTICS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
) -> None:
    row = (tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)).to(tl.int64)
    columns = tl.arange(0, BLOCK_HIDDEN)
    in_row = columns < hidden_size
    inside = (row < rows)[:, None] & in_row[None, :]
    x = tl.load(x_ptr + row[:, None] * x_stride + columns[None, :], inside, 0.0).to(tl.float32)
    mean = tl.sum(x, axis=1) / hidden_size
    centred = tl.where(inside, x - mean[:, None], 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, axis=1) / hidden_size + eps)
    weight = tl.load(weight_ptr + columns, in_row, 0.0).to(tl.float32)
    normed = centred * rstd[:, None] * weight[None, :]
    if WITH_BIAS:
        normed += tl.load(bias_ptr + columns, in_row, 0.0).to(tl.float32)[None, :]
    at_normed = normed_ptr + row[:, None] * normed_stride + columns[None, :]
    tl.store(at_normed, normed.to(normed_ptr.dtype.element_ty), inside)
    if WITH_STATISTICS:
        tl.store(mean_ptr + row, mean, row < rows)
        tl.store(rstd_ptr + row, rstd, row < rows)


@jit
def _layer_norm_backward_kernel(
    dx_ptr: tl.tensor,
    dx_stride: int,
    partials_ptr: tl.tensor,
    partials_stride: int,
    gradient_ptr: tl.tensor,
    gradient_stride: int,
    x_ptr: tl.tensor,
    x_stride: int,
    weight_ptr: tl.tensor,
    mean_ptr: tl.tensor,
    rstd_ptr: tl.tensor,
    rows: int,
    hidden_size: int,
    WITH_WEIGHT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    columns = tl.arange(0, BLOCK_HIDDEN)
    in_row = columns < hidden_size
    weight = tl.load(weight_ptr + columns, in_row, 0.0).to(tl.float32)
    # Tiles, so that a step adds thread by thread; rows are summed once, at the end.
    weight_gradient = tl.zeros((BLOCK_ROWS, BLOCK_HIDDEN), dtype=tl.float32)
    bias_gradient = tl.zeros((BLOCK_ROWS, BLOCK_HIDDEN), dtype=tl.float32)
    blocks = tl.cdiv(rows, BLOCK_ROWS)
    for block in tl.range(tl.program_id(0), blocks, tl.num_programs(0), num_stages=STAGES):
        row = (block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)).to(tl.int64)
        inside = (row < rows)[:, None] & in_row[None, :]
        at_x = x_ptr + row[:, None] * x_stride + columns[None, :]
        at_gradient = gradient_ptr + row[:, None] * gradient_stride + columns[None, :]
        x = tl.load(at_x, inside, 0.0).to(tl.float32)
        gradient = tl.load(at_gradient, inside, 0.0).to(tl.float32)
        mean = tl.load(mean_ptr + row, row < rows, 0.0).to(tl.float32)[:, None]
        rstd = tl.load(rstd_ptr + row, row < rows, 0.0).to(tl.float32)[:, None]
        # Past the row's end this is not zero, but the gradient there is.
        unit = (x - mean) * rstd
        wide = gradient * weight[None, :]
        along = tl.sum(wide * unit, axis=1)[:, None] / hidden_size
        shift = tl.sum(wide, axis=1)[:, None] / hidden_size
        dx = rstd * (wide - shift - unit * along)
        at_dx = dx_ptr + row[:, None] * dx_stride + columns[None, :]
        tl.store(at_dx, dx.to(dx_ptr.dtype.element_ty), inside)
        if WITH_WEIGHT:
            weight_gradient += gradient * unit
            bias_gradient += gradient
    if WITH_WEIGHT:
        at_partials = partials_ptr + tl.program_id(0).to(tl.int64) * partials_stride + columns
        tl.store(at_partials, tl.sum(weight_gradient, axis=0), in_row)
        tl.store(at_partials + hidden_size, tl.sum(bias_gradient, axis=0), in_row)


def _launch_layer_norm(
    normed: Tensor,
    statistics: tuple[Tensor, Tensor] | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
) -> None:
    """Rows by hidden, last axes contiguous; `statistics` are (mean, rstd), for training."""
    rows, hidden_size = x.shape
    if not x.numel():
        return
    sizes, num_warps = block_sizes(hidden_size)
    mean, rstd = statistics or (weight, weight)
    _layer_norm_kernel[(triton.cdiv(rows, sizes["BLOCK_ROWS"]),)](
        normed,
        normed.stride(0),
        mean,
        rstd,
        x,
        x.stride(0),
        weight,
        weight if bias is None else bias,
        eps,
        rows,
        hidden_size,
        WITH_BIAS=bias is not None,
        WITH_STATISTICS=statistics is not None,
        **sizes,
        num_warps=num_warps,
    )


def _launch_layer_norm_backward(
    dx: Tensor,
    partials: Tensor | None,
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
) -> None:
    """Rows by hidden; `partials` (programs, 2 * hidden), None for no dw and db."""
    rows, hidden_size = x.shape
    sizes, num_warps = backward_block_sizes(hidden_size, x.element_size())
    row_blocks = triton.cdiv(rows, sizes["BLOCK_ROWS"])
    programs = partial_count(x.device, row_blocks) if partials is None else len(partials)
    left = rstd[:, None] if partials is None else partials
    _layer_norm_backward_kernel[(programs,)](
        dx,
        dx.stride(0),
        left,
        left.stride(0),
        gradient,
        gradient.stride(0),
        x,
        x.stride(0),
        weight,
        mean,
        rstd,
        rows,
        hidden_size,
        WITH_WEIGHT=partials is not None,
        **sizes,
        num_warps=num_warps,
    )


def _normed(
    x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, with_statistics: bool
) -> tuple[Tensor, Tensor, Tensor]:
    normed, mean, rstd = _normed_fake(x, weight, bias, eps, with_statistics)
    statistics = (mean, rstd) if with_statistics else None
    _launch_layer_norm(normed, statistics, x, weight, bias, eps)
    return normed, mean, rstd


def _normed_fake(
    x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, with_statistics: bool
) -> tuple[Tensor, Tensor, Tensor]:
    kept = len(x) if with_statistics else 0
    mean, rstd = (x.new_empty(kept, dtype=torch.float32) for _ in range(2))
    return x.new_empty(x.shape), mean, rstd


def _backward(
    gradient: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, with_weight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dx, dw, db = _backward_fake(gradient, x, weight, mean, rstd, with_weight)
    if not x.numel():
        return dx, dw.zero_(), db.zero_()
    if not with_weight:
        _launch_layer_norm_backward(dx, None, gradient, x, weight, mean, rstd)
        return dx, dw, db
    sizes, _ = backward_block_sizes(x.shape[1], x.element_size())
    programs = partial_count(x.device, triton.cdiv(len(x), sizes["BLOCK_ROWS"]))
    partials = x.new_empty((programs, 2 * x.shape[1]), dtype=torch.float32)
    _launch_layer_norm_backward(dx, partials, gradient, x, weight, mean, rstd)
    of_weight, of_bias = partials.chunk(2, dim=1)
    return dx, sum_partials(of_weight, weight.dtype), sum_partials(of_bias, weight.dtype)


def _backward_fake(
    gradient: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, with_weight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dw, db = (weight.new_empty(weight.shape if with_weight else 0) for _ in range(2))
    return x.new_empty(x.shape), dw, db


layer_norm_forward = Operator("fairslate::layer_norm", _normed, _normed_fake)
layer_norm_backward = Operator("fairslate::layer_norm_backward", _backward, _backward_fake)


def variants() -> list[Variant]:
    """Both directions at hidden sizes of small encoders and decoders."""
    return [
        variant(dtype, hidden_size, backward=backward)
        for dtype in ("bf16", "fp32")
        for hidden_size in (768, 1024, 2048)
        for backward in (False, True)
    ]


def variant(dtype: str, hidden_size: int, *, backward: bool) -> Variant:
    """One compilation; `dtype` is Triton's: "fp32", "bf16" or "fp16"."""
    signature, constants = _types(dtype, backward)
    if backward:
        sizes, num_warps = backward_block_sizes(hidden_size, 4 if dtype == "fp32" else 2)
    else:
        sizes, num_warps = block_sizes(hidden_size)
    constants = constants | sizes
    signature = signature | {"rows": "i32", "hidden_size": "i32"}
    signature |= dict.fromkeys(constants, "constexpr")
    kernel = _layer_norm_backward_kernel if backward else _layer_norm_kernel
    return Variant(kernel, signature, constants, num_warps, shape=f"H={hidden_size} {dtype}")


def _types(dtype: str, backward: bool) -> tuple[dict[str, str], dict[str, int]]:
    rows = ("dx", "gradient", "x") if backward else ("normed", "x")
    signature = {"mean_ptr": "*fp32", "rstd_ptr": "*fp32", "weight_ptr": f"*{dtype}"}
    for name in rows:
        signature |= {f"{name}_ptr": f"*{dtype}", f"{name}_stride": "i32"}
    if backward:
        signature |= {"partials_ptr": "*fp32", "partials_stride": "i32"}
        return signature, {"WITH_WEIGHT": True}
    signature |= {"bias_ptr": f"*{dtype}", "eps": "fp32"}
    return signature, {"WITH_BIAS": True, "WITH_STATISTICS": True}
