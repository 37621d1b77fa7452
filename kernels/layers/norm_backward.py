"""Gradients of RMSNorm and of add + RMSNorm, the weight's without atomics.

    unit = x * rstd                 wide = gradient * weight
    dx   = rstd * (wide - unit * mean_j(wide_j * unit_j)) (+ total_gradient)
    dw   = sum over rows of gradient * unit

Reads x, gradient (and total_gradient) once and writes dx: 3 (4) * rows * hidden values. A few
programs for each multiprocessor walk over the rows and keep dw in registers; `sum_partials` adds
up what they leave. All sums are fp32. Knows nothing of autograd.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.base.dispatch import Operator, jit, tl, triton
from kernels.base.variant import Variant
from kernels.layers.partial_sums import partial_count, sum_partials

TILE = 4096  # values of each operand one program holds
WARPS = 8
BYTES_AHEAD = 16_384  # of each operand, on the way to shared memory while others are worked on


@jit
def _rms_norm_backward_kernel(
    dx_ptr: tl.tensor,
    dx_stride: int,
    partials_ptr: tl.tensor,
    partials_stride: int,
    gradient_ptr: tl.tensor,
    gradient_stride: int,
    total_gradient_ptr: tl.tensor,
    total_gradient_stride: int,
    x_ptr: tl.tensor,
    x_stride: int,
    weight_ptr: tl.tensor,
    rstd_ptr: tl.tensor,
    rows: int,
    hidden_size: int,
    ADD: tl.constexpr,
    WITH_WEIGHT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    columns = tl.arange(0, BLOCK_HIDDEN)
    in_row = columns < hidden_size
    weight = tl.load(weight_ptr + columns, in_row, 0.0).to(tl.float32)
    # A tile, so that a step adds thread by thread; rows are summed once, at the end.
    weight_gradient = tl.zeros((BLOCK_ROWS, BLOCK_HIDDEN), dtype=tl.float32)
    blocks = tl.cdiv(rows, BLOCK_ROWS)
    for block in tl.range(tl.program_id(0), blocks, tl.num_programs(0), num_stages=STAGES):
        row = (block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)).to(tl.int64)
        inside = (row < rows)[:, None] & in_row[None, :]
        at_x = x_ptr + row[:, None] * x_stride + columns[None, :]
        at_gradient = gradient_ptr + row[:, None] * gradient_stride + columns[None, :]
        x = tl.load(at_x, inside, 0.0).to(tl.float32)
        gradient = tl.load(at_gradient, inside, 0.0).to(tl.float32)
        rstd = tl.load(rstd_ptr + row, row < rows, 0.0).to(tl.float32)[:, None]
        unit = x * rstd
        wide = gradient * weight[None, :]
        shared = tl.sum(wide * unit, axis=1)[:, None] / hidden_size
        dx = rstd * (wide - unit * shared)
        if ADD:
            at_total = total_gradient_ptr + row[:, None] * total_gradient_stride + columns[None, :]
            dx += tl.load(at_total, inside, 0.0).to(tl.float32)
        at_dx = dx_ptr + row[:, None] * dx_stride + columns[None, :]
        tl.store(at_dx, dx.to(dx_ptr.dtype.element_ty), inside)
        if WITH_WEIGHT:
            weight_gradient += gradient * unit
    if WITH_WEIGHT:
        at_partials = partials_ptr + tl.program_id(0).to(tl.int64) * partials_stride + columns
        tl.store(at_partials, tl.sum(weight_gradient, axis=0), in_row)


def _launch_rms_norm_backward(
    dx: Tensor,
    partials: Tensor | None,
    gradient: Tensor,
    total_gradient: Tensor | None,
    x: Tensor,
    weight: Tensor,
    rstd: Tensor,
) -> None:
    """Rows by hidden throughout; `partials` has one row for each program, None for no dw."""
    rows, hidden_size = x.shape
    sizes, num_warps = block_sizes(hidden_size, x.element_size())
    added = gradient if total_gradient is None else total_gradient
    row_blocks = triton.cdiv(rows, sizes["BLOCK_ROWS"])
    programs = partial_count(x.device, row_blocks) if partials is None else len(partials)
    left = rstd[:, None] if partials is None else partials
    _rms_norm_backward_kernel[(programs,)](
        dx,
        dx.stride(0),
        left,
        left.stride(0),
        gradient,
        gradient.stride(0),
        added,
        added.stride(0),
        x,
        x.stride(0),
        weight,
        rstd,
        rows,
        hidden_size,
        ADD=total_gradient is not None,
        WITH_WEIGHT=partials is not None,
        **sizes,
        num_warps=num_warps,
    )


def block_sizes(hidden_size: int, element_size: int) -> tuple[dict[str, int], int]:
    """Compile-time sizes and warps: narrow rows share a program, wide ones get more warps."""
    width = triton.next_power_of_2(hidden_size)
    rows = max(1, TILE // width)
    ahead = BYTES_AHEAD // (rows * width * element_size)
    sizes = {"BLOCK_ROWS": rows, "BLOCK_HIDDEN": width, "STAGES": 1 + max(1, ahead)}
    return sizes, min(16, max(WARPS, width // 512))


def _rms_norm_backward(
    gradient: Tensor,
    total_gradient: Tensor | None,
    x: Tensor,
    weight: Tensor,
    rstd: Tensor,
    with_weight: bool,
) -> tuple[Tensor, Tensor]:
    dx = x.new_empty(x.shape)
    if not x.numel():
        return dx, weight.new_zeros(weight.shape if with_weight else 0)
    partials = None
    if with_weight:
        row_blocks = triton.cdiv(len(x), block_sizes(x.shape[1], x.element_size())[0]["BLOCK_ROWS"])
        shape = (partial_count(x.device, row_blocks), x.shape[1])
        partials = x.new_empty(shape, dtype=torch.float32)
    _launch_rms_norm_backward(dx, partials, gradient, total_gradient, x, weight, rstd)
    if partials is None:
        return dx, weight.new_empty(0)
    return dx, sum_partials(partials, weight.dtype)


def _rms_norm_backward_fake(
    gradient: Tensor,
    total_gradient: Tensor | None,
    x: Tensor,
    weight: Tensor,
    rstd: Tensor,
    with_weight: bool,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape if with_weight else 0)


rms_norm_backward = Operator(
    "fairslate::rms_norm_backward", _rms_norm_backward, _rms_norm_backward_fake
)


def variants() -> list[Variant]:
    """Backward of both norms at the widths of the hidden state and of one head."""
    return [
        variant(dtype, hidden_size, add)
        for dtype in ("bf16", "fp32")
        for hidden_size in (128, 1024, 2048, 8192)
        for add in (False, True)
        if not (hidden_size == 128 and add)
    ]


def variant(dtype: str, hidden_size: int, add: bool) -> Variant:
    """One compilation; `dtype` is Triton's: "fp32", "bf16" or "fp16"."""
    sizes, num_warps = block_sizes(hidden_size, 4 if dtype == "fp32" else 2)
    constants = {"ADD": add, "WITH_WEIGHT": True} | sizes
    operand = f"*{dtype}"
    signature = {
        "dx_ptr": operand,
        "dx_stride": "i32",
        "partials_ptr": "*fp32",
        "partials_stride": "i32",
        "gradient_ptr": operand,
        "gradient_stride": "i32",
        "total_gradient_ptr": operand,
        "total_gradient_stride": "i32",
        "x_ptr": operand,
        "x_stride": "i32",
        "weight_ptr": operand,
        "rstd_ptr": "*fp32",
        "rows": "i32",
        "hidden_size": "i32",
    } | dict.fromkeys(constants, "constexpr")
    label = f"H={hidden_size} {dtype}{' add' if add else ''}"
    return Variant(_rms_norm_backward_kernel, signature, constants, num_warps, shape=label)
