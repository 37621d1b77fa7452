"""Products of int8 or fp8 rows with a scale for each row and column. Knows nothing of layers.

    out[m, n] = a_scales[m] * b_scales[n] * sum_k a[m, k] b[n, k]  (+ bias[n])  (+ residual[m, n])

`b` lies as the weight of a linear layer does, (columns, depth). int8 products are summed in int32,
exactly; fp8 e4m3 ones in fp32, the tensor cores' shorter sums moved into it every 128 products.
Scales, bias and residual are applied in fp32 before the one store. Moves M K + N K bytes and twice
M N in bf16 (thrice that with a residual); 2 M N K operations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.base.checks import (
    FLOATS,
    check_capability,
    check_dtype,
    check_output,
    check_same_device,
    check_shape,
)
from kernels.base.checks import rows_contiguous as _rows_contiguous
from kernels.base.dispatch import Operator, choose_backend, interpreting, jit, tl, triton
from kernels.base.variant import Cost, Variant
from kernels.eight_bits.gemm_tiles import block_sizes
from kernels.eight_bits.quantize import FP8_CAPABILITY, LIMITS

IMPRECISE_PRODUCTS = 128  # fp8 products that the tensor cores sum in their own short format
ROWS_IN_TORCH = 512  # that plain torch multiplies at once
GROUP_ROWS = 8  # tiles of rows that share their columns in L2


def quantized_gemm_reference(
    a: Tensor,
    b: Tensor,
    a_scales: Tensor,
    b_scales: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """The formula in plain torch; the sums of int8 products are exact."""
    out = _sums(a, b).float() * a_scales[:, None] * b_scales
    for term in (bias, residual):
        out = out if term is None else out + term.float()
    return out.to(dtype)


def _sums(a: Tensor, b: Tensor) -> Tensor:
    if a.dtype == torch.int8 and a.device.type == "cpu":
        return torch._int_mm(a, b.T)
    return a.double() @ b.double().T


@jit
def _quantized_gemm_kernel(
    out_ptr: tl.tensor,
    out_row_stride: int,
    a_ptr: tl.tensor,
    a_row_stride: int,
    b_ptr: tl.tensor,
    b_row_stride: int,
    a_scales_ptr: tl.tensor,
    b_scales_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    residual_ptr: tl.tensor,
    residual_row_stride: int,
    rows: int,
    columns: int,
    depth_size: int,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    EVEN_DEPTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
    IMPRECISE: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> None:
    # One program per tile of the result. Tiles run down GROUP_ROWS rows before the next columns,
    # so that those in flight together share operands in L2.
    row_tiles, column_tiles = tl.cdiv(rows, BLOCK_ROWS), tl.cdiv(columns, BLOCK_COLUMNS)
    program = tl.program_id(0)
    group = program // (GROUP_ROWS * column_tiles)
    first = group * GROUP_ROWS
    height = tl.minimum(row_tiles - first, GROUP_ROWS)
    within = program % (GROUP_ROWS * column_tiles)
    first_row = (first + within % height) * BLOCK_ROWS
    first_column = within // height * BLOCK_COLUMNS
    # The last row and column are loaded again for those outside, cheaper than masking each load.
    row = tl.minimum(tl.arange(0, BLOCK_ROWS), rows - 1 - first_row)
    column = tl.minimum(tl.arange(0, BLOCK_COLUMNS), columns - 1 - first_column)
    depth = tl.arange(0, BLOCK_DEPTH)
    # A tile's address is int64, offsets within it int32: half the registers of whole addresses.
    a_tile = a_ptr + first_row.to(tl.int64) * a_row_stride
    b_tile = b_ptr + first_column.to(tl.int64) * b_row_stride
    a_offsets = row[:, None] * a_row_stride + depth[None, :]
    b_offsets = column[None, :] * b_row_stride + depth[:, None]

    exact: tl.constexpr = a_ptr.dtype.element_ty == tl.int8
    sums = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), dtype=tl.int32 if exact else tl.float32)
    for start in range(0, depth_size, BLOCK_DEPTH):
        if EVEN_DEPTH:
            a, b = tl.load(a_tile + a_offsets), tl.load(b_tile + b_offsets)
        else:
            inside = depth < depth_size - start
            a = tl.load(a_tile + a_offsets, inside[None, :], 0.0)
            b = tl.load(b_tile + b_offsets, inside[:, None], 0.0)
        if INTERPRETED and not exact:
            a, b = a.to(tl.float32), b.to(tl.float32)
        if exact:
            sums = tl.dot(a, b, sums, out_dtype=tl.int32)
        else:
            sums = tl.dot(a, b, sums, max_num_imprecise_acc=IMPRECISE)
        a_tile += BLOCK_DEPTH
        b_tile += BLOCK_DEPTH

    a_scale = tl.load(a_scales_ptr + first_row + row).to(tl.float32)
    b_scale = tl.load(b_scales_ptr + first_column + column).to(tl.float32)
    out = sums.to(tl.float32) * a_scale[:, None] * b_scale[None, :]
    if HAS_BIAS:
        out += tl.load(bias_ptr + first_column + column).to(tl.float32)[None, :]
    row, column = tl.arange(0, BLOCK_ROWS), tl.arange(0, BLOCK_COLUMNS)
    inside = (row < rows - first_row)[:, None] & (column < columns - first_column)[None, :]
    if HAS_RESIDUAL:
        tile = residual_ptr + first_row.to(tl.int64) * residual_row_stride + first_column
        offsets = row[:, None] * residual_row_stride + column[None, :]
        out += tl.load(tile + offsets, inside, 0.0).to(tl.float32)
    tile = out_ptr + first_row.to(tl.int64) * out_row_stride + first_column
    offsets = row[:, None] * out_row_stride + column[None, :]
    tl.store(tile + offsets, out.to(out_ptr.dtype.element_ty), inside)


def _launch(
    out: Tensor,
    a: Tensor,
    b: Tensor,
    a_scales: Tensor,
    b_scales: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
) -> None:
    """Operands as in `quantized_gemm`, their last axes contiguous."""
    (rows, depth), columns = a.shape, b.shape[0]
    if out.numel() == 0:
        return
    sizes = block_sizes(rows, columns, a.dtype, residual=residual is not None)
    programs = triton.cdiv(rows, sizes["BLOCK_ROWS"]) * triton.cdiv(columns, sizes["BLOCK_COLUMNS"])
    _quantized_gemm_kernel[(programs,)](
        out,
        out.stride(0),
        a,
        a.stride(0),
        b,
        b.stride(0),
        a_scales,
        b_scales,
        bias,
        residual,
        0 if residual is None else residual.stride(0),
        rows,
        columns,
        depth,
        **_flags(bias is not None, residual is not None, depth, sizes["BLOCK_DEPTH"]),
        INTERPRETED=interpreting(),
        **sizes,
    )


def _flags(bias: bool, residual: bool, depth: int, block_depth: int) -> dict[str, int]:
    return {
        "HAS_BIAS": bias,
        "HAS_RESIDUAL": residual,
        "EVEN_DEPTH": depth % block_depth == 0,
        "GROUP_ROWS": GROUP_ROWS,
        "IMPRECISE": IMPRECISE_PRODUCTS,
    }


def _fake(out: Tensor, *operands: object) -> None:
    """Only `out` changes."""


_launch_quantized_gemm = Operator("fairslate::quantized_gemm", _launch, _fake, mutates=("out",))


def quantized_gemm(
    a: Tensor,
    b: Tensor,
    a_scales: Tensor,
    b_scales: Tensor,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16,
    out: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Product (M, N) of `dtype` of a (M, K) and b (N, K), both int8 or both float8_e4m3fn.

    a_scales (M,) and b_scales (N,) fp32; bias (N,) and residual (M, N) of any float dtype; dtype is
    fp32, bf16 or fp16, that of `out` if given, which may be `residual` itself. Raises ValueError or
    TypeError naming the operand, UnsupportedDeviceError for fp8 below sm_89,
    BackendUnavailableError as `choose_backend` does.
    """
    _check(a, b, a_scales, b_scales, bias, residual, dtype)
    fresh = a.new_empty((a.shape[0], b.shape[0]) if out is None else 0, dtype=dtype)
    if out is None:
        out = fresh
    check_output("out", out, fresh, (a.shape[0], b.shape[0]))
    if choose_backend(backend, a) == "torch":
        # A few rows at a time: the sums of many take fresh memory, which costs more than they do.
        for start in range(0, len(a), ROWS_IN_TORCH):
            rows = slice(start, start + ROWS_IN_TORCH)
            added = None if residual is None else residual[rows]
            operands = (a[rows], b, a_scales[rows], b_scales, bias, added, dtype)
            out[rows] = quantized_gemm_reference(*operands)
        return out
    if residual is not None:
        residual = _rows_contiguous(residual)
    scales = (a_scales.contiguous(), b_scales.contiguous())
    if bias is not None:
        bias = bias.contiguous()
    _launch_quantized_gemm(out, _rows_contiguous(a), _rows_contiguous(b), *scales, bias, residual)
    return out


def _check(
    a: Tensor,
    b: Tensor,
    a_scales: Tensor,
    b_scales: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    dtype: torch.dtype,
) -> None:
    check_dtype("a", a, tuple(LIMITS))
    check_dtype("b", b, (a.dtype,))
    if a.dtype.is_floating_point:
        check_capability("float8_e4m3fn", a.device, FP8_CAPABILITY)
    if dtype not in FLOATS:
        raise TypeError(f"dtype is {dtype}; pass one of {FLOATS}")
    check_shape("a", a, ("rows", "depth"))
    check_shape("b", b, ("columns", a.shape[1]))
    for name, scales, count in (("a_scales", a_scales, len(a)), ("b_scales", b_scales, len(b))):
        check_shape(name, scales, (count,))
        check_dtype(name, scales, (torch.float32,))
    given = {"a": a, "b": b, "a_scales": a_scales, "b_scales": b_scales}
    for name, term, shape in (
        ("bias", bias, (len(b),)),
        ("residual", residual, (len(a), len(b))),
    ):
        if term is not None:
            check_shape(name, term, shape)
            check_dtype(name, term)
            given[name] = term
    check_same_device(**given)


def cost(a: Tensor, b: Tensor, residual: Tensor | None = None) -> Cost:
    """Operands and scales read once, the result written once in bf16."""
    (rows, depth), columns = a.shape, b.shape[0]
    results = 1 if residual is None else 2
    moved = a.nbytes + b.nbytes + 4 * (rows + columns) + 2 * results * rows * columns
    return Cost(moved, 2 * rows * columns * depth)


def variants() -> list[Variant]:
    """Every tile for both dtypes in bf16, with a residual as after attention and after the MLP."""
    plain, added = (
        ((8192, 6144), (2048, 1024), (256, 1024)),
        ((2048, 3072), (512, 2048), (256, 1024)),
    )
    shapes = [(*shape, False) for shape in plain] + [(*shape, True) for shape in added]
    return [
        _variant(kind, dtype, *shape)
        for kind, dtype in (("i8", torch.int8), ("fp8e4nv", torch.float8_e4m3fn))
        for shape in shapes
    ]


def _variant(kind: str, dtype: torch.dtype, rows: int, columns: int, residual: bool) -> Variant:
    sizes = block_sizes(rows, columns, dtype, residual=residual)
    warps, stages = sizes.pop("num_warps"), sizes.pop("num_stages")
    flags = _flags(bias=False, residual=residual, depth=1024, block_depth=sizes["BLOCK_DEPTH"])
    constants = {**flags, **sizes, "INTERPRETED": False, "bias_ptr": None}
    strides = ("out_row_stride", "a_row_stride", "b_row_stride", "residual_row_stride")
    signature = {
        **{f"{name}_ptr": "*bf16" for name in ("out", "residual")},
        **{f"{name}_ptr": f"*{kind}" for name in ("a", "b")},
        **{f"{name}_scales_ptr": "*fp32" for name in ("a", "b")},
        **dict.fromkeys((*strides, "rows", "columns", "depth_size"), "i32"),
        **dict.fromkeys(constants, "constexpr"),
    }
    label = f"M={rows} N={columns} {kind}{' residual' if residual else ''}"
    return Variant(_quantized_gemm_kernel, signature, constants, warps, stages, label)
