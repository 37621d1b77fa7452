"""Products with weights of four bits against fp64. Knows nothing of layers."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import weight_only_gemm as module
from kernels.weight_only_gemm import (
    GROUP,
    HALVES,
    MAX_ROWS,
    MAX_ROWS_ON_CPU,
    pack_weight,
    unpack_weight,
    weight_only_gemm,
    weight_only_gemm_reference,
)
from tests.kernels.planted import each_caught
from tests.kernels.truth import (
    BACKENDS,
    SENTINEL,
    assert_accurate,
    assert_guard_untouched,
    draw,
    spread,
)

MARGIN = 300  # more than a tile and a group
# rows, columns, depth: one row, an odd tile of columns, as many rows as may be
SHAPES = [(1, 3, 128), (5, 70, 256), (32, 33, 384)]
# Twice the worst RMSE ratios measured, 2.2e-3 and 2.1e-4: the rounding of the result alone.
TOLERANCES = {torch.bfloat16: 4.4e-3, torch.float16: 4.2e-4}


def operands(
    rows: int, columns: int, depth: int, dtype: torch.dtype = torch.bfloat16
) -> tuple[Tensor, Tensor, Tensor]:
    packed, scales = pack_weight(draw(columns, depth, seed=1))
    return draw(rows, depth).to(dtype), packed, scales.to(dtype)


def truth(x: Tensor, packed: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    """Digit by digit, as compressed-tensors unpacks them."""
    digits = torch.stack([(packed >> (4 * i)) & 15 for i in range(8)], dim=-1).flatten(1) - 8
    weight = digits.double() * scales.double().repeat_interleave(GROUP, dim=1)
    out = x.double() @ weight.T
    return out if bias is None else out + bias.double()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_fp64(shape: tuple[int, int, int], dtype: torch.dtype, backend: str) -> None:
    rows, columns, depth = shape
    most = MAX_ROWS if backend == "triton" else MAX_ROWS_ON_CPU
    check(module, (min(rows, most), columns, depth), dtype, backend)


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_many_rows_are_refused_on_a_cpu_where_the_weight_is_unpacked(backend: str) -> None:
    x, packed, scales = operands(MAX_ROWS_ON_CPU + 1, 3, 128)
    with pytest.raises(ValueError, match="x has 9 rows on a CPU; pass at most 8, or unpack"):
        weight_only_gemm(x, packed, scales, backend=backend)
    assert weight_only_gemm(x[1:], packed, scales, backend=backend).shape == (8, 3)


def check(
    found: ModuleType,
    shape: tuple[int, int, int],
    dtype: torch.dtype = torch.bfloat16,
    backend: str = "triton",
) -> None:
    """With a bias; nothing around the result is written, what lies around the operands unread."""
    x, packed, scales = operands(*shape, dtype)
    bias = draw(shape[1], seed=4) * 10
    around = [amid(x, math.nan), amid(packed, 0x7FFFFFFF), amid(scales, math.nan)]
    buffer = torch.full((shape[0] + 2 * MARGIN, shape[1] + 2 * MARGIN), SENTINEL, dtype=dtype)
    out = buffer[MARGIN:-MARGIN, MARGIN:-MARGIN]
    found.weight_only_gemm(*around, bias=amid(bias, math.nan), out=out, backend=backend)
    eager = weight_only_gemm_reference(x, packed, scales, bias)
    expected = truth(x, packed, scales, bias)
    assert_accurate("out", out, expected, TOLERANCES[dtype], eager)
    assert_guard_untouched(buffer, out)


def amid(operand: Tensor, filler: float) -> Tensor:
    """The same values inside a buffer that a planted bug does not leave."""
    buffer = operand.new_full([size + 2 * MARGIN for size in operand.shape], filler)
    return buffer[(slice(MARGIN, -MARGIN),) * operand.ndim].copy_(operand)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3))
def test_packing_keeps_weights_to_half_a_step(columns: int, groups: int) -> None:
    weight = draw(columns, groups * GROUP, seed=columns)
    packed, scales = pack_weight(weight)
    assert (packed.shape, packed.dtype) == ((columns, groups * 16), torch.int32)
    error = (unpack_weight(packed, scales) - weight).abs()
    assert (error <= scales.repeat_interleave(GROUP, dim=1) * 0.5001).all()


def test_digits_lie_as_compressed_tensors_packs_them() -> None:
    """pack_to_int32 of compressed-tensors on the weights -8 to 7, eight in a word."""
    weight = torch.cat((torch.arange(-7, 8), torch.zeros(113))).float()[None]
    packed, scales = pack_weight(weight)
    assert scales.item() == 1.0
    assert [word & 0xFFFFFFFF for word in packed[0, :2].tolist()] == [0x87654321, 0x8FEDCBA9]


def test_a_column_is_the_same_in_any_company() -> None:
    x, packed, scales = operands(3, 70, 256)
    together = weight_only_gemm(x, packed, scales, backend="triton")
    alone = weight_only_gemm(x[2:], packed[50:51], scales[50:51], backend="triton")
    assert torch.equal(together[2:, 50:51], alone)


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_and_strided_operands(backend: str) -> None:
    x, packed, scales = operands(4, 5, 128)
    assert weight_only_gemm(x[:0], packed, scales, backend=backend).shape == (0, 5)
    apart = weight_only_gemm(spread(x), spread(packed), spread(scales), backend=backend)
    assert torch.equal(apart, weight_only_gemm(x, packed, scales, backend=backend))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.ones(4, 256)}, TypeError, "x is float32; pass bfloat16 or float16"),
        ({"x": torch.ones(33, 256).half()}, ValueError, "x has 33 rows; pass at most 32"),
        ({"x": torch.ones(4, 200).half()}, ValueError, "x has depth 200; it must be a multiple"),
        ({"packed": torch.ones(3, 31).int()}, ValueError, r"packed has shape \(3, 31\)"),
        ({"packed": torch.ones(3, 32)}, TypeError, "packed is float32; pass int32"),
        ({"scales": torch.ones(3, 1)}, ValueError, r"scales has shape \(3, 1\)"),
        ({"scales": torch.ones(3, 2).int()}, TypeError, "scales is int32"),
        ({"bias": torch.ones(4)}, ValueError, "bias has shape"),
        ({"scales": torch.ones(3, 2, device="meta")}, ValueError, "scales is on meta"),
        ({"out": torch.ones(4, 3)}, TypeError, "out is float32; pass float16"),
    ],
)
def test_bad_input_is_named(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    packed, scales = torch.ones(3, 32).int(), torch.ones(3, 2)
    given_operands = {"x": torch.ones(4, 256).half(), "packed": packed, "scales": scales}
    with pytest.raises(error, match=message):
        weight_only_gemm(**(given_operands | change))  # type: ignore[arg-type]


def test_a_weight_of_an_odd_depth_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match="weight has depth 130; it must be a multiple of 128"):
        pack_weight(torch.ones(2, 130))


def test_torch_library_accepts_the_operator() -> None:
    x, packed, scales = operands(4, 5, 128)
    arguments = (torch.empty(4, 5, dtype=x.dtype), x, packed, scales, None)
    torch.library.opcheck(module._launch_weight_only_gemm.twin, arguments)


PLANTED_BUGS = {
    "weights unsigned": ("reshape(digits - 8", "reshape(digits"),
    "digits backwards": ("(4 * tl.arange(0, 8))", "(28 - 4 * tl.arange(0, 8))"),
    "first group's scale": ("scales_ptr + scales + group, inside", "scales_ptr + scales, inside"),
    "first group's weights": ("words + group * words_of_group, inside", "words, inside"),
    "scale of all groups at the end": ("sums += tl.dot", "sums = tl.dot"),
    "rows unmasked": ("(row < rows)[:, None] & inside[None, :])", "inside[None, :])"),
    "columns unmasked": ("inside = column < columns", "inside = column >= 0"),
    "bias forgotten": ("HAS_BIAS=bias is not None", "HAS_BIAS=False"),
}


def run_all_checks(found: ModuleType) -> None:
    check(found, (5, 70, 256))


test_planted_bugs_are_caught = each_caught(module, PLANTED_BUGS, run_all_checks)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("rows", [1, 16, 32])
def test_agrees_at_real_shapes_on_a_gpu(rows: int, dtype: torch.dtype) -> None:
    x, packed, scales = (t.cuda() for t in operands(rows, 3072, 1024, dtype))
    graph = torch.cuda.CUDAGraph()
    weight_only_gemm(x, packed, scales)
    with torch.cuda.graph(graph):
        actual = weight_only_gemm(x, packed, scales)
    graph.replay()
    assert_accurate("out", actual, truth(x, packed, scales), TOLERANCES[dtype])
