"""LayerNorm against fp64, forward and backward. Knows nothing of models."""

from __future__ import annotations

from functools import partial
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.layer_norm import layer_norm, layer_norm_reference
from kernels.layers import layer_norm_kernel
from tests.kernels.planted import each_caught
from tests.kernels.truth import (
    BACKENDS,
    DTYPES,
    assert_accurate,
    assert_guard_untouched,
    assert_same,
    draw,
    gradients_of,
    guarded,
    spread,
    surrounded,
)

EPS = 1e-5
# rows, hidden: an odd width, one row, more tiles than programs, a wide row
SHAPES = [(6, 123), (1, 320), (260, 64), (2, 2050)]
# RMS of the error over RMS of the truth; the worst measured are 2.0e-7, 2.4e-4 and 2.1e-3
TOLERANCE = {torch.float32: 4e-7, torch.float16: 4.7e-4, torch.bfloat16: 4.1e-3}


def operands(shape: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Rows far from zero mean, weight and bias."""
    x, weight = draw(*shape, seed=1) * 3 + 2, draw(shape[1], seed=2) + 1
    return x.to(dtype), weight.to(dtype), draw(shape[1], dtype=dtype, seed=3)


def truth(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    shift = None if bias is None else bias.double()
    return torch.nn.functional.layer_norm(x.double(), x.shape[-1:], weight.double(), shift, EPS)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, (1, 1), (2, 8192)], ids=str)
def test_agrees_with_the_formula_in_fp64(
    shape: tuple[int, int], dtype: torch.dtype, backend: str
) -> None:
    x, weight, bias = operands(shape, dtype)
    for shift in (bias, None):
        normed = layer_norm(x, weight, shift, EPS, backend=backend)
        assert normed.dtype == dtype
        eager = layer_norm_reference(x, weight, shift, EPS)
        assert_accurate("normed", normed, truth(x, weight, shift), TOLERANCE[dtype], eager)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_far_mean_takes_no_digits_from_the_variance(backend: str) -> None:
    x, weight, bias = operands((6, 123), torch.float32)
    far = (x + 4096).round(decimals=2)
    normed = layer_norm(far, weight, bias, EPS, backend=backend)
    assert_accurate("normed", normed, truth(far, weight, bias), 6.4e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_eps_keeps_constant_rows_finite(backend: str) -> None:
    x, ones = torch.full((2, 64), 3.0), torch.ones(64)
    assert torch.equal(layer_norm(x, ones, ones, EPS, backend=backend), torch.ones(2, 64))


@pytest.mark.parametrize("backend", BACKENDS)
def test_leading_axes_strides_and_empty_batches(backend: str) -> None:
    x, weight, bias = operands((6, 123), torch.float32)
    expected = layer_norm(x, weight, bias, EPS, backend=backend)
    for view in (spread, surrounded):
        shaped = view(x).reshape(2, 3, 123)
        ours = layer_norm(shaped, view(weight), view(bias), EPS, backend=backend)
        assert_same(ours.flatten(0, 1), expected, backend)
    assert layer_norm(x[:0], weight, bias, EPS, backend=backend).shape == (0, 123)


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(9)), count=st.integers(1, 9))
def test_a_row_is_the_same_in_any_company(order: list[int], count: int) -> None:
    x, weight, bias = operands((9, 123), torch.float32)
    full = layer_norm(x, weight, bias, EPS, backend="triton")
    some = order[:count]
    assert torch.equal(layer_norm(x[some], weight, bias, EPS, backend="triton"), full[some])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_agree_with_fp64(
    shape: tuple[int, int], dtype: torch.dtype, backend: str
) -> None:
    leaves, upstream = operands(shape, dtype), draw(*shape, dtype=dtype, seed=5)
    ours = gradients_of(partial(layer_norm, eps=EPS, backend=backend), leaves, [upstream])
    eager = gradients_of(partial(layer_norm, eps=EPS, backend="torch"), leaves, [upstream])
    expected = gradients_of(truth, [x.double() for x in leaves], [upstream.double()])
    for name, *compared in zip(("dx", "dw", "db"), ours, expected, eager, strict=True):
        assert compared[0].dtype == dtype
        assert_accurate(name, compared[0], compared[1], TOLERANCE[dtype], compared[2])


def test_strided_gradients_give_the_same_bits() -> None:
    leaves, upstream = operands((6, 123), torch.float32), draw(6, 123, seed=5)
    run = partial(layer_norm, eps=EPS, backend="triton")
    expected = gradients_of(run, leaves, [upstream])
    for gradient in (spread(upstream), surrounded(upstream)):
        assert all(map(torch.equal, gradients_of(run, leaves, [gradient]), expected))


def test_what_is_frozen_or_absent_costs_no_gradient() -> None:
    x, weight, bias = operands((6, 123), torch.float32)
    upstream, run = draw(6, 123, seed=5), partial(layer_norm, eps=EPS, backend="triton")
    dx, dw, db = gradients_of(run, (x, weight, bias), [upstream])
    (alone,) = gradients_of(lambda a: run(a, weight, bias), [x], [upstream])
    without = gradients_of(lambda a, w: run(a, w, None), [x, weight], [upstream])
    (shift,) = gradients_of(lambda b: run(x, weight, b), [bias], [upstream])
    pairs = zip((alone, *without, shift), (dx, dx, dw, db), strict=True)
    assert all(torch.equal(ours, expected) for ours, expected in pairs)


def test_no_rows_give_no_gradients() -> None:
    x, weight, bias = operands((6, 123), torch.float32)
    run = partial(layer_norm, eps=EPS, backend="triton")
    dx, dw, db = gradients_of(run, (x[:0], weight, bias), [x[:0]])
    assert dx.shape == (0, 123)
    assert torch.equal(dw, torch.zeros(123))
    assert torch.equal(db, torch.zeros(123))


def test_the_reference_has_the_gradients_of_the_formula() -> None:
    leaves = [x.double().requires_grad_() for x in operands((3, 5), torch.float32)]
    assert torch.autograd.gradcheck(partial(layer_norm_reference, eps=EPS), leaves)


def test_operators_are_sound_for_torch_compile() -> None:
    x, weight, bias = operands((5, 64), torch.float32)
    forward = layer_norm_kernel.layer_norm_forward.twin
    backward = layer_norm_kernel.layer_norm_backward.twin
    torch.library.opcheck(forward, (x, weight, bias, EPS, True))
    torch.library.opcheck(forward, (x, weight, None, EPS, False))
    for with_weight in (True, False):
        statistics = x.mean(-1), torch.ones(5)
        torch.library.opcheck(backward, (x, x, weight, *statistics, with_weight))


def test_compiles_without_a_graph_break() -> None:
    leaves, upstream = operands((5, 64), torch.float32), [draw(5, 64, seed=5)]
    run = partial(layer_norm, eps=EPS, backend="triton")
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    expected = gradients_of(run, leaves, upstream)
    for ours, eager in zip(gradients_of(compiled, leaves, upstream), expected, strict=True):
        torch.testing.assert_close(ours, eager)


def test_bad_operands_are_named() -> None:
    x, weight = torch.ones(2, 4), torch.ones(4)
    with pytest.raises(ValueError, match="must have 1 to 32768"):
        layer_norm(torch.ones(2, 0), weight, weight, EPS)
    with pytest.raises(ValueError, match=r"weight has shape \(5,\); it must be \(4,\)"):
        layer_norm(x, torch.ones(5), None, EPS)
    with pytest.raises(ValueError, match=r"bias has shape \(5,\); it must be \(4,\)"):
        layer_norm(x, weight, torch.ones(5), EPS)
    with pytest.raises(TypeError, match="bias is float16; pass float32"):
        layer_norm(x, weight, weight.half(), EPS)
    with pytest.raises(TypeError, match="x is int32"):
        layer_norm(x.int(), weight, weight, EPS)
    with pytest.raises(ValueError, match="bias is on meta, but x is on cpu"):
        layer_norm(x, weight, weight.to("meta"), EPS)


# Each is a plausible slip; the checks below must catch every one of them.
PLANTED_BUGS = {
    "eps forgotten": ("/ hidden_size + eps", "/ hidden_size"),
    "mean over the block": (
        "mean = tl.sum(x, axis=1) / hidden_size",
        "mean = tl.sum(x, axis=1) / BLOCK_HIDDEN",
    ),
    "padding counted in the variance": (
        "tl.where(inside, x - mean[:, None], 0.0)",
        "x - mean[:, None]",
    ),
    "bias forgotten": ("normed += tl.load(bias_ptr", "normed += 0 * tl.load(bias_ptr"),
    "statistics exchanged": ("mean_ptr + row, mean", "mean_ptr + row, rstd"),
    "output stride taken for width": ("* normed_stride", "* hidden_size"),
    "mean gradient kept": ("wide - shift - unit", "wide - unit"),
    "projection kept": ("- unit * along", ""),
    "bias gradient weighted": ("bias_gradient += gradient", "bias_gradient += wide"),
    "only the last rows counted": (
        "weight_gradient += gradient * unit",
        "weight_gradient = gradient * unit",
    ),
    "sums exchanged": (
        "at_partials + hidden_size, tl.sum(bias",
        "at_partials + hidden_size, tl.sum(weight",
    ),
}


def check(module: ModuleType) -> None:
    """More tiles of rows than programs, and a row of nearly equal values."""
    (x, weight, bias), gradient = operands((140, 123), torch.float32), draw(140, 123, seed=5)
    x[3] = 2.0 + 1e-3 * draw(123, seed=6)
    frames = [guarded(140, 123), guarded(140), guarded(140), guarded(140, 123), guarded(3, 246)]
    normed, mean, rstd, dx, partials = (view for _, view in frames)
    inputs = surrounded(x), surrounded(weight)
    module._launch_layer_norm(normed, (mean, rstd), *inputs, surrounded(bias), EPS)
    module._launch_layer_norm_backward(dx, partials, surrounded(gradient), *inputs, mean, rstd)
    wide = [t.double() for t in (x, weight, bias)]
    expected = [truth(*wide), *gradients_of(truth, wide, [gradient.double()])]
    assert_accurate("flat row", normed[3].clone(), expected[0][3], 2e-4)
    sums = partials.sum(0).split(123)  # type: ignore[no-untyped-call]
    for name, ours, true in zip("ndwb", (normed, dx, *sums), expected, strict=True):
        assert_accurate(name, ours.clone(), true, 1e-5 if name == "d" else 5e-7)
    for buffer, view in frames:
        assert_guard_untouched(buffer, view)


test_planted_bugs_are_caught = each_caught(layer_norm_kernel, PLANTED_BUGS, check)
