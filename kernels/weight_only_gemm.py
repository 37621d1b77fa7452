"""Products of a few 16-bit rows with weights of four bits. Knows nothing of layers.

    out[m, n] = sum_g scales[n, g] * sum_{k in group g} x[m, k] w[n, k]  (+ bias[n])

w is -8 to 7 and shares a scale with the 128 weights of its group. Eight weights lie in an int32 as
compressed-tensors packs them: weight 8 j + i of a row, plus 8, in bits 4 i to 4 i + 3 of its word
j. They take a quarter of the memory of bf16; on an H200 that is all they save: 12 to 13 us at the
layers of a 0.6 B model where bf16 takes 10, and 13 to 19 with the groups of a column multiplied
side by side. More than 32 rows are refused, and in plain torch on a CPU, which unpacks the weight
for each call, more than 8. Weights are exact in 16 bits, sums and scales are fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.base.checks import FLOATS, check_dtype, check_output, check_same_device, check_shape
from kernels.base.checks import rows_contiguous as _rows_contiguous
from kernels.base.dispatch import Operator, choose_backend, interpreting, jit, tl, triton
from kernels.base.variant import Cost, Variant

GROUP = 128  # weights that share a scale
PACKED = 8  # weights in a word
MAX_ROWS, MAX_ROWS_ON_CPU = 32, 8
HALVES = (torch.bfloat16, torch.float16)
BLOCK_COLUMNS, WARPS, STAGES = 32, 2, 6


def pack_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(packed (N, K / 8) int32, scales (N, K / 128) fp32) of a weight (N, K), to the nearest.

    K is a multiple of 128; a group's scale takes its largest weight to 7.
    """
    check_shape("weight", weight, ("columns", "depth"))
    if weight.shape[1] % GROUP:
        raise ValueError(f"weight has depth {weight.shape[1]}; it must be a multiple of {GROUP}")
    columns, depth = weight.shape
    groups = weight.float().reshape(columns, depth // GROUP, GROUP)
    scales = groups.abs().amax(dim=-1).clamp_min(1e-12) / 7
    rounded = (groups / scales.unsqueeze(-1)).round().int()
    digits = rounded.view(columns, depth // PACKED, PACKED) + 8
    # The top digit reaches the sign bit: the sum of disjoint bits is their union in int32 as well.
    return (digits << _shifts(weight.device)).sum(dim=-1, dtype=torch.int32), scales


def unpack_weight(packed: Tensor, scales: Tensor) -> Tensor:
    """The weight (N, K) in fp32, for products of more rows."""
    digits = (packed.unsqueeze(-1) >> _shifts(packed.device)) & 15
    groups = (digits - 8).view(*scales.shape, GROUP)
    return (groups * scales.float().unsqueeze(-1)).flatten(1)


def _shifts(device: torch.device) -> Tensor:
    return torch.arange(0, 32, 4, dtype=torch.int32, device=device)


def weight_only_gemm_reference(
    x: Tensor, packed: Tensor, scales: Tensor, bias: Tensor | None = None
) -> Tensor:
    """The formula in plain torch, fp32 or, for such an x, fp64; shapes as in `weight_only_gemm`."""
    wide = torch.promote_types(x.dtype, torch.float32)
    out = x.to(wide) @ unpack_weight(packed, scales).to(wide).T
    return (out if bias is None else out + bias.to(wide)).to(x.dtype)


@jit
def _weight_only_kernel(
    out_ptr: tl.tensor,
    out_row_stride: int,
    x_ptr: tl.tensor,
    x_row_stride: int,
    packed_ptr: tl.tensor,
    packed_row_stride: int,
    scales_ptr: tl.tensor,
    scales_row_stride: int,
    bias_ptr: tl.tensor,
    rows: int,
    columns: int,
    groups: int,
    HAS_BIAS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> None:
    # One program per tile of columns, all rows in it.
    words_of_group: tl.constexpr = GROUP // 8
    row, depth = tl.arange(0, BLOCK_ROWS), tl.arange(0, GROUP)
    column = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    inside = column < columns
    x_tile = x_ptr + row[:, None] * x_row_stride + depth[None, :]
    words = column.to(tl.int64)[:, None] * packed_row_stride + tl.arange(0, words_of_group)[None, :]
    scales = column.to(tl.int64) * scales_row_stride
    shifts = (4 * tl.arange(0, 8))[None, None, :]
    sums = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), dtype=tl.float32)
    for group in range(0, groups):
        x = tl.load(x_tile + group * GROUP, (row < rows)[:, None], 0.0)
        packed = tl.load(packed_ptr + words + group * words_of_group, inside[:, None], 0)
        scale = tl.load(scales_ptr + scales + group, inside, 0.0).to(tl.float32)
        if INTERPRETED:
            x = x.to(tl.float32)
        # All digits of a group at once: each product's operands pass through shared memory.
        digits = (packed[:, :, None] >> shifts) & 15
        weight = tl.reshape(digits - 8, (BLOCK_COLUMNS, GROUP)).to(x.dtype)
        sums += tl.dot(x, tl.trans(weight)) * scale[None, :]
    if HAS_BIAS:
        sums += tl.load(bias_ptr + column, inside, 0.0).to(tl.float32)[None, :]
    outputs = out_ptr + row[:, None] * out_row_stride + column[None, :]
    tl.store(outputs, sums.to(out_ptr.dtype.element_ty), (row < rows)[:, None] & inside[None, :])


def block_sizes(rows: int) -> dict[str, int]:
    """All rows, as many as the tensor cores take at least, and columns for many programs."""
    return {
        "BLOCK_ROWS": max(16, triton.next_power_of_2(rows)),
        "BLOCK_COLUMNS": BLOCK_COLUMNS,
        "GROUP": GROUP,
        "num_warps": WARPS,
        "num_stages": STAGES,
    }


def _launch(out: Tensor, x: Tensor, packed: Tensor, scales: Tensor, bias: Tensor | None) -> None:
    """Operands as in `weight_only_gemm`, their last axes contiguous."""
    rows, columns = out.shape
    if out.numel() == 0:
        return
    _weight_only_kernel[(triton.cdiv(columns, BLOCK_COLUMNS),)](
        out,
        out.stride(0),
        x,
        x.stride(0),
        packed,
        packed.stride(0),
        scales,
        scales.stride(0),
        bias,
        rows,
        columns,
        scales.shape[1],
        HAS_BIAS=bias is not None,
        INTERPRETED=interpreting(),
        **block_sizes(rows),
    )


def _fake(out: Tensor, *operands: object) -> None:
    """Only `out` changes."""


_launch_weight_only_gemm = Operator("fairslate::weight_only_gemm", _launch, _fake, mutates=("out",))


def weight_only_gemm(
    x: Tensor,
    packed: Tensor,
    scales: Tensor,
    *,
    bias: Tensor | None = None,
    out: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Product (M, N) in x's dtype of x (M, K), bf16 or fp16, and weights of four bits.

    packed (N, K / 8) int32, scales (N, K / 128) of any float dtype, bias (N,), K a multiple of 128;
    M <= 32, in plain torch on a CPU <= 8. Raises ValueError or TypeError naming the operand,
    BackendUnavailableError as `choose_backend` does.
    """
    _check(x, packed, scales, bias)
    shape = (x.shape[0], packed.shape[0])
    if out is None:
        out = x.new_empty(shape)
    check_output("out", out, x, shape)
    if choose_backend(backend, x) == "torch":
        if x.device.type == "cpu":
            _check_rows(len(x), MAX_ROWS_ON_CPU, " on a CPU")
        return out.copy_(weight_only_gemm_reference(x, packed, scales, bias))
    operands = map(_rows_contiguous, (x, packed, scales))
    _launch_weight_only_gemm(out, *operands, None if bias is None else bias.contiguous())
    return out


def _check(x: Tensor, packed: Tensor, scales: Tensor, bias: Tensor | None) -> None:
    check_shape("x", x, ("rows", "depth"))
    check_dtype("x", x, HALVES)
    rows, depth = x.shape
    if depth % GROUP:
        raise ValueError(f"x has depth {depth}; it must be a multiple of {GROUP}")
    _check_rows(rows, MAX_ROWS)
    check_shape("packed", packed, ("columns", depth // PACKED))
    check_dtype("packed", packed, (torch.int32,))
    check_shape("scales", scales, (packed.shape[0], depth // GROUP))
    check_dtype("scales", scales, FLOATS)
    check_same_device(x=x, packed=packed, scales=scales)
    if bias is not None:
        check_shape("bias", bias, (packed.shape[0],))
        check_dtype("bias", bias, FLOATS)
        check_same_device(x=x, bias=bias)


def _check_rows(rows: int, most: int, where: str = "") -> None:
    if rows > most:
        raise ValueError(f"x has {rows} rows{where}; pass at most {most}, or unpack the weight")


def cost(x: Tensor, packed: Tensor, scales: Tensor) -> Cost:
    """Operands read once, the result written once."""
    result = x.shape[0] * packed.shape[0]
    moved = x.nbytes + packed.nbytes + scales.nbytes + result * x.element_size()
    return Cost(moved, 2 * result * x.shape[1])


def variants() -> list[Variant]:
    """One and two tiles of rows; the sizes of a model are run-time arguments."""
    return [_variant(rows) for rows in (16, MAX_ROWS)]


def _variant(rows: int) -> Variant:
    sizes = block_sizes(rows)
    warps, stages = sizes.pop("num_warps"), sizes.pop("num_stages")
    constants = {**sizes, "HAS_BIAS": False, "INTERPRETED": False, "bias_ptr": None}
    numbers = ("out_row_stride", "x_row_stride", "packed_row_stride", "scales_row_stride")
    signature = {
        "out_ptr": "*bf16",
        "x_ptr": "*bf16",
        "packed_ptr": "*i32",
        "scales_ptr": "*bf16",
        **dict.fromkeys((*numbers, "rows", "columns", "groups"), "i32"),
        **dict.fromkeys(constants, "constexpr"),
    }
    return Variant(_weight_only_kernel, signature, constants, warps, stages, f"M={rows} bf16")
