"""Quantized rows, bit for bit against torch. Knows nothing of products."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import row_quantizer as module
from kernels.eight_bits.quantize import LIMITS, UnsupportedDeviceError, check_target
from kernels.row_quantizer import quantize_rows
from tests.kernels.planted import each_caught
from tests.kernels.truth import DTYPES, draw, spread, surrounded

TARGETS = list(LIMITS)
SHAPES = [(5, 123), (1, 1), (70, 64), (3, 1025), (9, 2, 40)]


def check(found: ModuleType, x: Tensor, target: torch.dtype, backend: str = "triton") -> None:
    """Scales are the rows' largest values over the limit; values are within half a step."""
    values, scales = found.quantize_rows(x, target, backend=backend)
    assert values.dtype == target
    assert values.shape == x.shape
    wide, limit = x.float(), LIMITS[target]
    assert torch.equal(scales, wide.abs().amax(-1).clamp_min(1e-12) / limit)
    exact = wide * (1 / scales).unsqueeze(-1)
    rounded = exact.round() if target == torch.int8 else exact
    assert torch.equal(values.float(), rounded.to(target).float())


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_torch_bit_for_bit(
    shape: tuple[int, ...], dtype: torch.dtype, target: torch.dtype, backend: str
) -> None:
    check(module, draw(*shape).mul(3).to(dtype), target, backend)


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_zeros_ties_and_strides(target: torch.dtype) -> None:
    check_special_rows(module, target)


def check_special_rows(found: ModuleType, target: torch.dtype) -> None:
    halves = torch.arange(-254, 255, 2).float() / 4  # with a scale of 1/2: halfway between values
    check(found, torch.stack((halves, torch.zeros(255), halves * 1e-30)), target)
    check(found, spread(draw(4, 33)), target)
    check(found, surrounded(draw(4, 33)), target)
    check(found, draw(5, 66)[:, 33:], target)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=20))
def test_any_row_is_within_half_a_step(row: list[float]) -> None:
    x = torch.tensor([row])
    values, scales = quantize_rows(x, torch.int8, backend="triton")
    error = (values.float() * scales[:, None] - x).abs().max()
    assert error <= scales.max() * 0.5001


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_no_rows_give_no_values(backend: str) -> None:
    values, scales = quantize_rows(torch.empty(0, 8), torch.int8, backend=backend)
    assert (values.shape, scales.shape) == ((0, 8), (0,))


def test_bad_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match="x is int64"):
        quantize_rows(torch.ones(2, 4).long(), torch.int8)
    with pytest.raises(TypeError, match=r"pass torch\.int8 or torch\.float8_e4m3fn"):
        quantize_rows(torch.ones(2, 4), torch.uint8)
    with pytest.raises(ValueError, match=r"x has shape \(2, 0\)"):
        quantize_rows(torch.ones(2, 0), torch.int8)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(UnsupportedDeviceError, match=r"needs compute capability 8\.9"):
        check_target(torch.float8_e4m3fn, torch.device("cuda:0"))


def test_torch_library_accepts_the_operator() -> None:
    operands = (draw(5, 16), torch.int8)
    torch.library.opcheck(module._launch_quantize_rows.twin, operands)


PLANTED_BUGS = {
    "columns unmasked in the load": ("columns[None, :], inside, 0.0)", "columns[None, :])"),
    "output stride taken for the operand's": ("row[:, None] * x_row_stride", "row[:, None] * 33"),
    "the other limit": ("LIMIT=LIMITS[dtype]", "LIMIT=448.0 if dtype == torch.int8 else 127.0"),
    "rows in another order": ("tile, row, columns", "tile, rows - 1 - row, columns"),
}


def run_all_checks(found: ModuleType) -> None:
    for target in TARGETS:
        check_special_rows(found, target)


test_planted_bugs_are_caught = each_caught(module, PLANTED_BUGS, run_all_checks)


@pytest.mark.gpu
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_is_torch_bit_for_bit_on_a_gpu(target: torch.dtype) -> None:
    x = draw(300, 3072).bfloat16().cuda()
    graph = torch.cuda.CUDAGraph()
    quantize_rows(x, target)
    with torch.cuda.graph(graph):
        values, scales = quantize_rows(x, target)
    graph.replay()
    # On the CPU: for a GPU, torch turns a division by a number into a product with its reciprocal.
    expected, wanted = quantize_rows(x.cpu(), target)
    assert torch.equal(scales.cpu(), wanted)
    assert torch.equal(values.cpu().float(), expected.float())
