"""Products of eight-bit rows against exact integers and fp64. Knows nothing of layers."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import quantized_gemm as module
from kernels.eight_bits.gemm_tiles import block_sizes
from kernels.eight_bits.quantize import LIMITS, UnsupportedDeviceError
from kernels.quantized_gemm import quantized_gemm
from tests.kernels.planted import each_caught
from tests.kernels.truth import (
    BACKENDS,
    SENTINEL,
    assert_accurate,
    assert_guard_untouched,
    draw,
    spread,
)

KINDS = list(LIMITS)
MARGIN = 260  # more than a tile
# One value, a tile with ragged edges, several tiles, depths beside and on the block's.
SHAPES = [(1, 1, 1), (5, 70, 300), (130, 65, 128), (3, 2, 1025)]
# Twice the worst RMSE ratios measured, 4.5e-8 and 2.3e-3: the rounding of the result alone.
TOLERANCES = {torch.float32: 9e-8, torch.bfloat16: 4.6e-3}


def eight_bits(rows: int, columns: int, kind: torch.dtype, seed: int = 0) -> Tensor:
    """Values over the whole range of `kind`."""
    values = draw(rows, columns, seed=seed)
    return (values * 40).clamp(-127, 127).round().to(kind)


def operands(rows: int, columns: int, depth: int, kind: torch.dtype) -> tuple[Tensor, ...]:
    a, b = eight_bits(rows, depth, kind), eight_bits(columns, depth, kind, seed=1)
    return a, b, draw(rows, seed=2).exp(), draw(columns, seed=3).exp()


def truth(a: Tensor, b: Tensor, a_scales: Tensor, b_scales: Tensor) -> Tensor:
    return (a.double() @ b.double().T) * a_scales.double()[:, None] * b_scales.double()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_fp64(shape: tuple[int, int, int], kind: torch.dtype, backend: str) -> None:
    check(module, shape, kind, backend)


def check(
    found: ModuleType, shape: tuple[int, int, int], kind: torch.dtype, backend: str = "triton"
) -> None:
    given_operands = operands(*shape, kind)
    expected = truth(*given_operands)
    for dtype, tolerance in TOLERANCES.items():
        actual = found.quantized_gemm(*given_operands, dtype=dtype, backend=backend)
        assert actual.dtype == dtype
        assert_accurate("out", actual, expected, tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("depth", [128, 1000, 4097])
def test_integer_sums_are_exact(depth: int, backend: str) -> None:
    a = torch.randint(-128, 128, (5, depth), generator=torch.Generator().manual_seed(depth))
    b = torch.randint(-128, 128, (7, depth), generator=torch.Generator().manual_seed(depth + 1))
    a[0], b[0] = -128, -128  # the largest sum there is
    a8, b8 = a.to(torch.int8), b.to(torch.int8)
    actual = quantized_gemm(
        a8, b8, torch.ones(5), torch.ones(7), dtype=torch.float32, backend=backend
    )
    assert torch.equal(actual, (a @ b.T).float())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_bias_and_residual_join_before_rounding(kind: torch.dtype, backend: str) -> None:
    check_terms(module, kind, backend)


def check_terms(found: ModuleType, kind: torch.dtype, backend: str = "triton") -> None:
    given_operands = operands(9, 70, 40, kind)
    scale = float(truth(*given_operands).std())
    bias, residual = draw(70, seed=5) * scale, (draw(9, 70, seed=6) * scale).bfloat16()
    expected = truth(*given_operands) + bias.double() + residual.double()
    actual = found.quantized_gemm(
        *given_operands, bias=bias, residual=residual, dtype=torch.float32, backend=backend
    )
    assert_accurate("out", actual, expected, TOLERANCES[torch.float32])
    inplace = residual.clone()
    found.quantized_gemm(*given_operands, bias=bias, residual=inplace, out=inplace, backend=backend)
    assert_accurate("in place", inplace, expected, TOLERANCES[torch.bfloat16])


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_torch_takes_a_few_rows_at_a_time(
    kind: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS_IN_TORCH", 4)
    check(module, (9, 70, 300), kind, "torch")
    check_terms(module, kind, "torch")


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 200), st.sampled_from(KINDS))
def test_a_row_is_the_same_in_any_company(
    rows: int, columns: int, depth: int, kind: torch.dtype
) -> None:
    a, b, a_scales, b_scales = operands(rows, columns, depth, kind)
    together = quantized_gemm(a, b, a_scales, b_scales, dtype=torch.float32, backend="triton")
    alone = quantized_gemm(
        a[-1:], b, a_scales[-1:], b_scales, dtype=torch.float32, backend="triton"
    )
    assert torch.equal(together[-1:], alone)


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_operands_give_empty_or_zero_results(backend: str) -> None:
    for rows, columns, depth in ((0, 4, 8), (4, 0, 8), (4, 3, 0)):
        given_operands = operands(rows, columns, depth, torch.int8)
        out = quantized_gemm(*given_operands, backend=backend)
        assert out.shape == (rows, columns)
        assert (out == 0).all()


def test_nothing_outside_is_read_or_written() -> None:
    for kind in KINDS:
        check_guards(module, kind)


def check_guards(found: ModuleType, kind: torch.dtype) -> None:
    """float8_e4m3fn has no infinity: NaN surrounds it; int8 has neither, 127 does."""
    a, b, a_scales, b_scales = operands(6, 70, 150, kind)
    expected = truth(a, b, a_scales, b_scales)
    filler = torch.nan if kind.is_floating_point else 127
    scales = [amid(a_scales, torch.nan), amid(b_scales, torch.nan)]
    buffer = torch.full((6 + 2 * MARGIN, 70 + 2 * MARGIN), SENTINEL)
    out = buffer[MARGIN:-MARGIN, MARGIN:-MARGIN]
    residual = amid(torch.zeros(6, 70), torch.nan)
    found.quantized_gemm(
        amid(a, filler),
        amid(b, filler),
        *scales,
        residual=residual,
        dtype=torch.float32,
        out=out,
        backend="triton",
    )
    assert_accurate("out", out, expected, TOLERANCES[torch.float32])
    assert_guard_untouched(buffer, out)


def amid(operand: Tensor, filler: float) -> Tensor:
    """The same values inside a buffer that a planted bug does not leave."""
    buffer = torch.full([size + 2 * MARGIN for size in operand.shape], filler).to(operand.dtype)
    return buffer[(slice(MARGIN, -MARGIN),) * operand.ndim].copy_(operand)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_operands_are_read_right(backend: str) -> None:
    a, b, a_scales, b_scales = operands(6, 7, 33, torch.int8)
    expected = truth(a, b, a_scales, b_scales)
    actual = quantized_gemm(
        spread(a), spread(b), spread(a_scales), spread(b_scales), backend=backend
    )
    assert_accurate("out", actual, expected, TOLERANCES[torch.bfloat16])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"a": torch.ones(4, 8)}, TypeError, "a is float32; pass int8 or float8_e4m3fn"),
        ({"b": torch.ones(3, 8).to(torch.float8_e4m3fn)}, TypeError, "b is float8_e4m3fn"),
        ({"b": torch.ones(3, 9).char()}, ValueError, r"b has shape \(3, 9\)"),
        ({"a_scales": torch.ones(3)}, ValueError, r"a_scales has shape \(3,\); it must be \(4,\)"),
        ({"b_scales": torch.ones(3).half()}, TypeError, "b_scales is float16; pass float32"),
        ({"bias": torch.ones(4)}, ValueError, "bias has shape"),
        ({"residual": torch.ones(4, 4)}, ValueError, "residual has shape"),
        ({"residual": torch.ones(4, 3).char()}, TypeError, "residual is int8"),
        ({"dtype": torch.int32}, TypeError, "dtype is torch.int32"),
        ({"out": torch.ones(4, 3)}, TypeError, "out is float32; pass bfloat16"),
        ({"b_scales": torch.ones(3, device="meta")}, ValueError, "b_scales is on meta"),
    ],
)
def test_bad_input_is_named(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    a, b = torch.ones(4, 8).char(), torch.ones(3, 8).char()
    given_operands = {"a": a, "b": b, "a_scales": torch.ones(4), "b_scales": torch.ones(3)}
    with pytest.raises(error, match=message):
        quantized_gemm(**(given_operands | change))  # type: ignore[arg-type]


def test_a_gpu_without_fp8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_old(what: str, device: torch.device, needed: tuple[int, int]) -> None:
        raise UnsupportedDeviceError(f"{what} needs {needed}")

    monkeypatch.setattr(module, "check_capability", too_old)
    with pytest.raises(UnsupportedDeviceError, match="float8_e4m3fn"):
        quantized_gemm(*operands(2, 3, 4, torch.float8_e4m3fn))
    assert quantized_gemm(*operands(2, 3, 4, torch.int8)).shape == (2, 3)


@pytest.mark.parametrize(
    ("rows", "columns", "kind", "residual", "tile"),
    [
        (8192, 6144, torch.int8, False, (128, 128)),
        (8192, 1024, torch.int8, False, (128, 128)),
        (512, 6144, torch.int8, False, (128, 128)),
        (2048, 1024, torch.int8, False, (64, 128)),  # two small ones side by side, not one large
        (2048, 1024, torch.int8, True, (128, 128)),
        (8192, 6144, torch.float8_e4m3fn, False, (128, 128)),
        (256, 1024, torch.int8, False, (64, 64)),
    ],
)
def test_tiles_fill_the_gpu(
    rows: int, columns: int, kind: torch.dtype, residual: bool, tile: tuple[int, int]
) -> None:
    sizes = block_sizes(rows, columns, kind, residual=residual)
    assert (sizes["BLOCK_ROWS"], sizes["BLOCK_COLUMNS"]) == tile


def test_torch_library_accepts_the_operator() -> None:
    a, b, a_scales, b_scales = operands(4, 5, 6, torch.int8)
    arguments = (torch.empty(4, 5), a, b, a_scales, b_scales, draw(5), None)
    torch.library.opcheck(module._launch_quantized_gemm.twin, arguments)


PLANTED_BUGS = {
    "row scale forgotten": ("* a_scale[:, None]", ""),
    "column scale for rows": ("a_scales_ptr + first_row + row", "b_scales_ptr + first_row + row"),
    "scales of the first tile": ("b_scales_ptr + first_column + column", "b_scales_ptr + column"),
    "depth unmasked": ("inside = depth < depth_size - start", "inside = depth < 1 << 20"),
    "depth not advanced": ("b_tile += BLOCK_DEPTH", "b_tile += 0"),
    "rows unmasked": ("(row < rows - first_row)[:, None]", "(row >= 0)[:, None]"),
    "columns unmasked": ("(column < columns - first_column)[None, :]", "(column >= 0)[None, :]"),
    "bias forgotten": ('HAS_BIAS": bias', 'HAS_BIAS": False'),
    "residual of the first tile": ("residual_row_stride + first_column", "residual_row_stride"),
    "sums in fp16": ("sums.to(tl.float32) *", "sums.to(tl.float16).to(tl.float32) *"),
    "a ragged depth taken for even": ("depth % block_depth == 0", "True"),
}


def run_all_checks(found: ModuleType) -> None:
    for kind in KINDS:
        check_guards(found, kind)
        check_terms(found, kind)
        check(found, (5, 140, 300), kind)


def test_the_checks_pass_without_a_bug() -> None:
    run_all_checks(module)


test_planted_bugs_are_caught = each_caught(module, PLANTED_BUGS, run_all_checks)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("shape", [(2048, 3072, 1024), (513, 1024, 3072), (8192, 6144, 2048)])
def test_agrees_at_real_shapes_on_a_gpu(shape: tuple[int, int, int], kind: torch.dtype) -> None:
    given_operands = [t.cuda() for t in operands(*shape, kind)]
    residual = draw(*shape[:2]).bfloat16().cuda()
    graph = torch.cuda.CUDAGraph()
    # Compiled beforehand: a module cannot be loaded while a graph is captured.
    quantized_gemm(*given_operands, residual=residual, dtype=torch.float32)
    with torch.cuda.graph(graph):
        actual = quantized_gemm(*given_operands, residual=residual, dtype=torch.float32)
    graph.replay()
    expected = truth(*given_operands) + residual.double()
    # The tensor cores sum fp8 products in a shorter format for 128 products at a time.
    assert_accurate("out", actual, expected, 1e-6 if kind == torch.int8 else 1e-3)
