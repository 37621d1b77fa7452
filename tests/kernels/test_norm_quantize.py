"""Add + RMSNorm + quantization against the three in turn, bit for bit. Knows no products."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from kernels import norm_quantize
from kernels.base.dispatch import jit, tl
from kernels.eight_bits import quantize
from kernels.eight_bits.quantize import LIMITS, UnsupportedDeviceError, quantize_rows_reference
from kernels.norm import add_rms_norm
from kernels.norm_quantize import add_rms_norm_quantize, add_rms_norm_quantize_reference
from tests.kernels.planted import each_caught, load_broken_copy
from tests.kernels.test_norm import EPS, SHAPES, operands, truth
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
# RMS of the rounding error over RMS of the truth; the worst measured are 1.6e-2 and 2.7e-2
TOLERANCE = {torch.int8: 3.1e-2, torch.float8_e4m3fn: 5.3e-2}
HALVES = torch.cat((torch.arange(127) - 63.5, torch.tensor([127.0])))  # of scale 1


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_scales_and_total_are_those_of_the_three_in_turn(
    shape: tuple[int, int], dtype: torch.dtype, target: torch.dtype
) -> None:
    x, residual, weight = operands(*shape, dtype)
    values, scales, total = add_rms_norm_quantize(
        x, residual, weight, EPS, target, backend="triton"
    )
    normed, expected_total = add_rms_norm(x, residual, weight, EPS, backend="triton")
    assert_identical(
        (values, scales, total), (*quantize_rows_reference(normed, target), expected_total)
    )
    ratio = rmse_ratio(values.double() * scales.double()[:, None], truth(total, weight))
    assert ratio <= TOLERANCE[target], ratio


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_scales_equal_those_of_the_reference(target: torch.dtype) -> None:
    # fp32 sums differ by their order; after rounding to bf16 none of these rows shows it.
    x, residual, weight = operands(70, 128, torch.bfloat16)
    for added in (residual, None):
        actual = add_rms_norm_quantize(x, added, weight, EPS, target, backend="triton")
        assert_identical(actual, add_rms_norm_quantize_reference(x, added, weight, EPS, target))


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_a_half_rounds_to_the_even_value(target: torch.dtype) -> None:
    rows = HALVES[None] * (LIMITS[target] / 127)
    assert_identical(quantized(quantize, rows, target), quantize_rows_reference(rows, target))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_of_zeros_gives_zeros_and_a_positive_scale(backend: str) -> None:
    zeros, ones = torch.zeros(2, 64), torch.ones(64)
    for target in TARGETS:
        values, scales, _ = add_rms_norm_quantize(zeros, None, ones, EPS, target, backend=backend)
        assert (values.float() == 0).all()
        assert (scales > 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_leading_axes_strides_and_empty_batches(backend: str) -> None:
    x, residual, weight = operands(6, 123, torch.float32)
    expected = add_rms_norm_quantize(x, residual, weight, EPS, torch.int8, backend=backend)
    for view in (spread, surrounded):
        shaped = [view(t).reshape(2, 3, 123) for t in (x, residual)]
        values, scales, total = add_rms_norm_quantize(
            shaped[0], shaped[1], view(weight), EPS, torch.int8, backend=backend
        )
        assert_identical((values.flatten(0, 1), scales.flatten(), total.flatten(0, 1)), expected)
    empty = add_rms_norm_quantize(x[:0], None, weight, EPS, torch.int8, backend=backend)
    assert [tuple(t.shape) for t in empty] == [(0, 123), (0,), (0, 123)]


def test_the_operator_is_sound_for_torch_compile() -> None:
    x, residual, weight = operands(5, 64, torch.float32)
    for added in (residual, None):
        operator = norm_quantize._norm_quantize.twin
        torch.library.opcheck(operator, (x, added, weight, EPS, torch.int8))


def test_other_targets_and_shapes_are_refused() -> None:
    x, weight = torch.ones(2, 4), torch.ones(4)
    with pytest.raises(TypeError, match=r"dtype is torch\.uint8; pass torch\.int8 or"):
        add_rms_norm_quantize(x, None, weight, EPS, torch.uint8)
    with pytest.raises(ValueError, match=r"residual has shape \(4,\); it must be \(2, 4\)"):
        add_rms_norm_quantize(x, weight, weight, EPS, torch.int8)
    with pytest.raises(ValueError, match=r"weight has shape \(4,\); it must be \(3,\)"):
        add_rms_norm_quantize(torch.ones(2, 3), None, weight, EPS, torch.int8)


def test_fp8_needs_a_gpu_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    gpu = torch.device("cuda:0")
    with pytest.raises(UnsupportedDeviceError, match=r"float8_e4m3fn needs .* 8\.9; .* 8\.6"):
        quantize.check_target(torch.float8_e4m3fn, gpu)
    quantize.check_target(torch.int8, gpu)


# Each is a plausible slip; the checks below must catch every one of them.
PLANTED_BUGS = {
    "scale of the sum": ("tile = normed.to", "tile = x.to"),
    "columns unmasked": ("in_row = columns < hidden_size", "in_row = columns < 1 << 30"),
    "rows unmasked": ("known = row < rows", "known = row < 1 << 30"),
    "values' stride taken for width": (
        "values_ptr, values_stride, scales",
        "values_ptr, hidden_size, scales",
    ),
    "residual forgotten": ("(x + residual)", "(x)"),
}


def check(module: ModuleType) -> None:
    x, residual, weight = operands(6, 123, torch.float32)
    expected = add_rms_norm_quantize(x, residual, weight, EPS, torch.int8, backend="triton")
    frames = [guarded(6, 123, dtype=torch.int8), guarded(6), guarded(6, 123)]
    outputs = [view for _, view in frames]
    inputs = surrounded(x), surrounded(residual), surrounded(weight)
    module._launch_norm_quantize(*outputs, *inputs, EPS)
    assert_identical(tuple(outputs), expected)
    for buffer, view in frames:
        assert_guard_untouched(buffer, view)


test_planted_bugs_are_caught = each_caught(norm_quantize, PLANTED_BUGS, check)

STORING_BUGS = {
    "scales unmasked": ("row, scales, known)", "row, scales, row >= 0)"),
    "one scale for a program": ("row, scales, known)", "row, tl.max(scales), known)"),
    "columns for rows": ("row[:, None] * values_stride", "row[:, None]"),
}


@pytest.mark.parametrize("bug", STORING_BUGS)
def test_planted_bugs_in_the_storing_are_caught(
    bug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A copy of the caller too: what `check` expects is computed by the right one.
    caller = load_broken_copy(norm_quantize, tmp_path, "store_quantized(", "store_quantized(")
    broken = load_broken_copy(quantize, tmp_path, *STORING_BUGS[bug])
    monkeypatch.setattr(caller, "store_quantized", broken.store_quantized)
    with pytest.raises(AssertionError):
        check(caller)


ROUNDING_BUGS = {
    "truncated": ("(tl.minimum(scaled, LIMIT) + 12582912.0) - 12582912.0", "scaled"),
    "half up": ("(tl.minimum(scaled, LIMIT) + 12582912.0) - 12582912.0", "tl.floor(scaled + 0.5)"),
    "sign kept in the maximum": ("tl.abs(tile)", "tile"),
    "floor of the scale forgotten": ("axis=1), 1e-12)", "axis=1), 0.0)"),
}


@pytest.mark.parametrize("bug", ROUNDING_BUGS)
def test_planted_bugs_in_the_rounding_are_caught(bug: str, tmp_path: Path) -> None:
    broken = load_broken_copy(quantize, tmp_path, *ROUNDING_BUGS[bug])
    rows = torch.stack((HALVES, draw(128), torch.zeros(128), -HALVES))
    expected = quantize_rows_reference(rows, torch.int8)
    assert_identical(quantized(quantize, rows, torch.int8), expected)
    with pytest.raises(AssertionError):
        assert_identical(quantized(broken, rows, torch.int8), expected)


@jit
def _quantize_kernel(
    values_ptr: tl.tensor,
    scales_ptr: tl.tensor,
    rows_ptr: tl.tensor,
    quantize_tile: tl.constexpr,
    limit: tl.constexpr,
    rows: tl.constexpr,
    width: tl.constexpr,
) -> None:
    offsets = tl.arange(0, rows)[:, None] * width + tl.arange(0, width)[None, :]
    values, scales = quantize_tile(tl.load(rows_ptr + offsets), limit)
    tl.store(values_ptr + offsets, values.to(values_ptr.dtype.element_ty))
    tl.store(scales_ptr + tl.arange(0, rows), scales)


def quantized(module: ModuleType, rows: Tensor, target: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows, powers of two in number and width, through `module`'s part of the kernel alone."""
    values, scales = torch.empty_like(rows, dtype=target), torch.empty(len(rows))
    limit = LIMITS[target]
    _quantize_kernel[(1,)](values, scales, rows, module.quantize_tile, limit, *rows.shape)
    return values, scales
