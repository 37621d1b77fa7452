"""SwiGLU + quantization against the two in turn, bit for bit. Knows nothing of products."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from kernels import swiglu_quantize as module_under_test
from kernels.eight_bits.quantize import LIMITS, quantize_rows_reference
from kernels.swiglu import swiglu_packed
from kernels.swiglu_quantize import swiglu_quantize
from tests.kernels.planted import each_caught
from tests.kernels.test_swiglu import truth
from tests.kernels.truth import (
    BACKENDS,
    DTYPES,
    assert_guard_untouched,
    assert_identical,
    draw,
    guarded,
    rmse_ratio,
    spread,
    surrounded,
)

TARGETS = list(LIMITS)
# rows, inner: an odd width, one value, a wide row
SHAPES = [(5, 123), (1, 1), (2, 2345)]
# RMS of the rounding error over RMS of the truth; the worst measured are 2.1e-2 and 2.7e-2
TOLERANCE = {torch.int8: 4.1e-2, torch.float8_e4m3fn: 5.3e-2}


def packed(rows: int, inner: int, dtype: torch.dtype) -> Tensor:
    return torch.cat((draw(rows, inner, seed=1) * 3, draw(rows, inner, seed=2)), -1).to(dtype)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_scales_are_those_of_the_two_in_turn(
    shape: tuple[int, int], dtype: torch.dtype, target: torch.dtype
) -> None:
    gate_up = packed(*shape, dtype)
    values, scales = swiglu_quantize(gate_up, target, backend="triton")
    unit = swiglu_packed(gate_up, backend="triton")
    assert_identical((values, scales), quantize_rows_reference(unit, target))
    ratio = rmse_ratio(
        values.double() * scales.double()[:, None], truth("swiglu", *gate_up.chunk(2, -1))
    )
    assert ratio <= TOLERANCE[target], ratio


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_the_torch_backend_is_the_two_in_turn(target: torch.dtype) -> None:
    gate_up = packed(5, 123, torch.bfloat16)
    unit = swiglu_packed(gate_up, backend="torch")
    assert_identical(swiglu_quantize(gate_up, target), quantize_rows_reference(unit, target))


@pytest.mark.parametrize("backend", BACKENDS)
def test_leading_axes_strides_and_empty_batches(backend: str) -> None:
    gate_up = packed(6, 123, torch.float32)
    expected = swiglu_quantize(gate_up, torch.int8, backend="triton")
    for view in (spread, surrounded):
        values, scales = swiglu_quantize(
            view(gate_up).reshape(2, 3, 246), torch.int8, backend=backend
        )
        torch.testing.assert_close(values.flatten(0, 1), expected[0], atol=1, rtol=0)
        torch.testing.assert_close(scales.flatten(), expected[1], atol=0, rtol=1e-6)
    empty = swiglu_quantize(gate_up[:0], torch.int8, backend=backend)
    assert [tuple(t.shape) for t in empty] == [(0, 123), (0,)]


def test_the_operator_is_sound_for_torch_compile() -> None:
    operator = module_under_test._swiglu_quantize.twin
    torch.library.opcheck(operator, (packed(5, 64, torch.float32), torch.int8))


def test_bad_operands_are_named() -> None:
    with pytest.raises(ValueError, match=r"gate_up has shape \(2, 3\); its last axis must be even"):
        swiglu_quantize(torch.ones(2, 3), torch.int8)
    with pytest.raises(ValueError, match="gate_up has 32769 inner values a row; pass up to 32768"):
        swiglu_quantize(torch.ones(1, 2 * 32769), torch.int8)
    with pytest.raises(TypeError, match=r"dtype is torch\.float16; pass torch\.int8"):
        swiglu_quantize(torch.ones(2, 4), torch.float16)


# Each is a plausible slip; the checks below must catch every one of them.
PLANTED_BUGS = {
    "halves exchanged": ("gate * tl.sigmoid(gate) * up", "up * tl.sigmoid(up) * gate"),
    "columns unmasked": ("inside = (columns < inner_size)", "inside = (columns < 1 << 30)"),
    "values' stride taken for width": (
        "values_ptr, values_stride, scales",
        "values_ptr, inner_size, scales",
    ),
    "rows' stride taken for width": ("* gate_up_stride", "* inner_size"),
    "one row for all": ("unit, row, columns", "unit, row * 0, columns"),
}


def check(module: ModuleType) -> None:
    gate_up = packed(5, 123, torch.float32)
    unit = swiglu_packed(gate_up, backend="triton")
    frames = [guarded(5, 123, dtype=torch.int8), guarded(5)]
    outputs = frames[0][1], frames[1][1]
    module._launch_swiglu_quantize(*outputs, surrounded(gate_up))
    assert_identical(outputs, quantize_rows_reference(unit, torch.int8))
    for buffer, view in frames:
        assert_guard_untouched(buffer, view)


test_planted_bugs_are_caught = each_caught(module_under_test, PLANTED_BUGS, check)
