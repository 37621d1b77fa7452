"""Gradients of RMSNorm and add + RMSNorm against fp64. Knows nothing of optimisers."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from kernels.layers import norm_backward
from kernels.norm import add_rms_norm, add_rms_norm_reference, rms_norm, rms_norm_reference
from tests.kernels.planted import each_caught
from tests.kernels.test_norm import EPS, operands, truth
from tests.kernels.truth import (
    BACKENDS,
    DTYPES,
    assert_accurate,
    assert_guard_untouched,
    draw,
    gradients_of,
    guarded,
    spread,
    surrounded,
)

# rows, hidden: an odd width, one row, heads, more tiles than programs, a wide row
SHAPES = [(6, 123), (1, 320), (70, 128), (260, 64), (2, 2050)]
# RMS of the error over RMS of the truth; the worst measured are torch's 1.2e-7, 3.9e-4 and 3.2e-3,
# the kernels' 1.2e-7, 2.3e-4 and 1.9e-3
TOLERANCE = {torch.float32: 2.4e-7, torch.float16: 7e-4, torch.bfloat16: 5e-3}


def true_gradients(
    x: Tensor, weight: Tensor, gradient: Tensor, total_gradient: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    wide, scale = x.double().requires_grad_(), weight.double().requires_grad_()
    outputs, gradients = [truth(wide, scale)], [gradient.double()]
    if total_gradient is not None:
        outputs.append(wide * 1)
        gradients.append(total_gradient.double())
    dx, dw = torch.autograd.grad(outputs, (wide, scale), gradients)
    return dx, dw


def rms_norm_gradients(
    x: Tensor, weight: Tensor, gradient: Tensor, *, backend: str = "triton"
) -> list[Tensor]:
    return gradients_of(lambda a, w: rms_norm(a, w, EPS, backend=backend), (x, weight), (gradient,))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_agree_with_fp64(
    shape: tuple[int, int], dtype: torch.dtype, backend: str
) -> None:
    x, residual, weight = operands(*shape, dtype)
    upstream = draw(*shape, dtype=dtype, seed=5), draw(*shape, dtype=dtype, seed=6)
    actual = rms_norm_gradients(x, weight, upstream[0], backend=backend)
    eager = rms_norm_gradients(x, weight, upstream[0], backend="torch")
    expected = true_gradients(x, weight, upstream[0])
    for name, *compared in zip(("dx", "dw"), actual, expected, eager, strict=True):
        ours, true, reference = compared
        assert ours.dtype == dtype
        assert_accurate(name, ours, true, TOLERANCE[dtype], reference)

    dx, dresidual, dw = gradients_of(
        lambda a, b, w: add_rms_norm(a, b, w, EPS, backend=backend), (x, residual, weight), upstream
    )
    expected = true_gradients(x + residual, weight, *upstream)
    assert torch.equal(dx, dresidual)
    assert_accurate("dx of the sum", dx, expected[0], TOLERANCE[dtype])
    assert_accurate("dw of the sum", dw, expected[1], TOLERANCE[dtype])


def test_the_references_have_the_gradients_of_the_formula() -> None:
    x, residual, weight = (t.double().requires_grad_() for t in operands(3, 5, torch.float32))
    assert torch.autograd.gradcheck(lambda a, w: rms_norm_reference(a, w, EPS), (x, weight))
    assert torch.autograd.gradcheck(
        lambda a, b, w: add_rms_norm_reference(a, b, w, EPS), (x, residual, weight)
    )


@pytest.mark.parametrize("used", [0, 1])
def test_either_output_of_the_sum_may_go_unused(used: int) -> None:
    x, residual, weight = (t.requires_grad_() for t in operands(4, 64, torch.float32))
    gradient = draw(4, 64, seed=5)
    compared = []
    for backend in BACKENDS:
        outputs = add_rms_norm(x, residual, weight, EPS, backend=backend)
        compared.append(torch.autograd.grad(outputs[used], x, gradient)[0])
    torch.testing.assert_close(compared[1], compared[0])


def test_a_frozen_weight_costs_no_gradient() -> None:
    x, _, weight = operands(4, 64, torch.float32)
    normed = rms_norm(x.requires_grad_(), weight, EPS, backend="triton")
    normed.sum().backward()  # type: ignore[no-untyped-call]
    expected, _ = true_gradients(x.detach(), weight, torch.ones(4, 64))
    assert x.grad is not None
    assert weight.grad is None
    assert_accurate("dx", x.grad, expected, TOLERANCE[torch.float32])


def test_no_rows_give_no_weight_gradient() -> None:
    dx, dw = rms_norm_gradients(torch.empty(0, 64), torch.ones(64), torch.empty(0, 64))
    assert dx.shape == (0, 64)
    assert torch.equal(dw, torch.zeros(64))


def test_strided_gradients_give_the_same_bits() -> None:
    x, gradient, weight = operands(6, 123, torch.float32)
    expected = rms_norm_gradients(x, weight, gradient)
    for view in (spread(gradient), surrounded(gradient), gradient.T.contiguous().T):
        actual = rms_norm_gradients(surrounded(x), surrounded(weight), view)
        assert all(torch.equal(*pair) for pair in zip(actual, expected, strict=True))


def assert_backward_is_guarded(launch: Callable[..., None]) -> None:
    x, gradient, weight = operands(6, 123, torch.float32)
    rstd = (x.square().mean(-1) + EPS).rsqrt()
    buffers, views = zip(guarded(6, 123), guarded(2, 123), strict=True)
    launch(*views, surrounded(gradient), None, surrounded(x), surrounded(weight), rstd)
    dx, dw = true_gradients(x, weight, gradient)
    assert_accurate("dx", views[0].clone(), dx, 2e-7)
    assert_accurate("dw", views[1].sum(0), dw, 2e-7)
    for buffer, view in zip(buffers, views, strict=True):
        assert_guard_untouched(buffer, view)


def test_the_backward_writes_nothing_around_its_outputs() -> None:
    assert_backward_is_guarded(norm_backward._launch_rms_norm_backward)


def test_the_operator_is_sound_for_torch_compile() -> None:
    x, gradient, weight = operands(5, 64, torch.float32)
    backward = norm_backward.rms_norm_backward.twin
    torch.library.opcheck(backward, (gradient, None, x, weight, torch.ones(5), True))
    torch.library.opcheck(backward, (gradient, x, x, weight, torch.ones(5), False))


def test_both_compile_without_a_graph_break() -> None:
    def layer(x: Tensor, residual: Tensor, weight: Tensor) -> Tensor:
        normed, total = add_rms_norm(x, residual, weight, EPS, backend="triton")
        return rms_norm(normed, weight, EPS, backend="triton") * total

    leaves, upstream = operands(5, 64, torch.float32), [draw(5, 64, seed=5)]
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    expected = gradients_of(layer, leaves, upstream)
    for ours, eager in zip(gradients_of(compiled, leaves, upstream), expected, strict=True):
        torch.testing.assert_close(ours, eager)


# Each is a plausible slip; the checks below must catch every one of them.
PLANTED_BUGS = {
    "mean over the block": ("[:, None] / hidden_size", "[:, None] / BLOCK_HIDDEN"),
    "projection forgotten": ("wide - unit * shared", "wide"),
    "weight left out of dx": ("wide = gradient * weight[None, :]", "wide = gradient"),
    "only the last rows counted": (
        "weight_gradient += gradient * unit",
        "weight_gradient = gradient * unit",
    ),
    "gradient of the sum dropped": ("dx += tl.load", "dx += 0 * tl.load"),
    "stride of the gradient taken for width": (
        "row[:, None] * gradient_stride",
        "row[:, None] * hidden_size",
    ),
    "last rows unmasked": ("inside = (row < rows)[:, None]", "inside = (row < 1 << 30)[:, None]"),
    "partials overlap": ("* partials_stride", "* (partials_stride - 1)"),
}


def check(module: ModuleType) -> None:
    assert_backward_is_guarded(module._launch_rms_norm_backward)
    x, gradient, weight = operands(200, 123, torch.float32)
    rstd, added = (x.square().mean(-1) + EPS).rsqrt(), draw(200, 123, seed=6)
    total, wide = module.rms_norm_backward.function, surrounded(gradient)
    dx, dw = total(wide, surrounded(added), surrounded(x), weight, rstd, True)
    expected = true_gradients(x, weight, gradient, added)
    assert_accurate("dx", dx, expected[0], TOLERANCE[torch.float32])
    assert_accurate("dw", dw, expected[1], TOLERANCE[torch.float32])


test_planted_bugs_are_caught = each_caught(norm_backward, PLANTED_BUGS, check)
