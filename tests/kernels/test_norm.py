"""RMSNorm and add + RMSNorm against fp64. Knows nothing of gradients."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.layers import norm_forward
from kernels.norm import add_rms_norm, add_rms_norm_reference, rms_norm, rms_norm_reference
from tests.kernels.planted import each_caught
from tests.kernels.truth import (
    BACKENDS,
    DTYPES,
    assert_accurate,
    assert_guard_untouched,
    draw,
    guarded,
    spread,
    surrounded,
)

EPS = 1e-6
# rows, hidden: an odd width, one row, heads, more rows than a narrow tile holds, a wide row
SHAPES = [(6, 123), (1, 1), (1, 320), (70, 128), (33, 64), (2, 8192)]
# RMS of the error over RMS of the truth; the worst measured are 8e-8, 3.3e-4 and 2.6e-3
TOLERANCE = {torch.float32: 1.6e-7, torch.float16: 6e-4, torch.bfloat16: 5e-3}


def operands(rows: int, hidden: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    weight = draw(hidden, dtype=torch.float32, seed=2) + 1
    return (
        draw(rows, hidden, seed=1).mul(3).to(dtype),
        draw(rows, hidden, seed=3).to(dtype),
        weight.to(dtype),
    )


def truth(x: Tensor, weight: Tensor) -> Tensor:
    wide = x.double()
    return wide / (wide.square().mean(-1, keepdim=True) + EPS).sqrt() * weight.double()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_agree_with_the_formula_in_fp64(
    shape: tuple[int, int], dtype: torch.dtype, backend: str
) -> None:
    x, residual, weight = operands(*shape, dtype)
    normed = rms_norm(x, weight, EPS, backend=backend)
    eager = rms_norm_reference(x, weight, EPS)
    assert normed.dtype == dtype
    assert_accurate("normed", normed, truth(x, weight), TOLERANCE[dtype], eager)

    normed, total = add_rms_norm(x, residual, weight, EPS, backend=backend)
    assert torch.equal(total, x + residual)
    eager, _ = add_rms_norm_reference(x, residual, weight, EPS)
    assert_accurate("normed sum", normed, truth(total, weight), TOLERANCE[dtype], eager)


def test_rounding_is_that_of_hugging_face() -> None:
    x, _, weight = operands(33, 128, torch.bfloat16)
    assert torch.equal(
        rms_norm(x, weight, EPS, backend="triton"), rms_norm_reference(x, weight, EPS)
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_eps_keeps_rows_of_zeros_finite_and_small_rows_small(backend: str) -> None:
    x = torch.stack((torch.zeros(64), torch.full((64,), 1e-4)))
    normed = rms_norm(x, torch.ones(64), EPS, backend=backend)
    torch.testing.assert_close(normed.double(), truth(x, torch.ones(64)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_leading_axes_are_kept_and_may_be_empty(backend: str) -> None:
    x, residual, weight = operands(12, 64, torch.float32)
    flat = rms_norm(x, weight, EPS, backend=backend)
    assert torch.equal(
        rms_norm(x.view(2, 2, 3, 64), weight, EPS, backend=backend).flatten(0, 2), flat
    )
    assert rms_norm(x[0], weight, EPS, backend=backend).shape == (64,)
    normed, total = add_rms_norm(x[:0], residual[:0], weight, EPS, backend=backend)
    assert normed.shape == total.shape == (0, 64)


def test_a_weight_may_be_wider_than_the_rows() -> None:
    x, _, weight = operands(5, 64, torch.bfloat16)
    x.requires_grad_()
    wide = weight.float().requires_grad_()
    normed = rms_norm(x, wide, EPS, backend="triton")
    normed.sum().backward()  # type: ignore[no-untyped-call]
    assert normed.dtype == torch.bfloat16
    assert wide.grad is not None
    assert wide.grad.dtype == torch.float32


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_operands_give_the_same_bits(backend: str) -> None:
    x, residual, weight = operands(6, 123, torch.float32)
    expected = add_rms_norm(x, residual, weight, EPS, backend=backend)
    views = [
        (spread(x), spread(residual), spread(weight)),
        (surrounded(x), surrounded(residual), surrounded(weight)),
        (x.T.contiguous().T, residual, weight),
    ]
    for view in views:
        actual = add_rms_norm(*view, EPS, backend=backend)
        assert torch.equal(actual[0], expected[0])
        assert torch.equal(actual[1], expected[1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_out_is_written_and_nothing_around_it(backend: str) -> None:
    x, _, weight = operands(6, 123, torch.float32)
    buffer, view = guarded(6, 123)
    assert rms_norm(x, weight, EPS, backend=backend, out=view) is view
    assert torch.equal(view, rms_norm(x, weight, EPS, backend=backend))
    assert_guard_untouched(buffer, view)
    in_place = x.clone()
    rms_norm(in_place, weight, EPS, backend=backend, out=in_place)
    assert torch.equal(in_place, rms_norm(x, weight, EPS, backend=backend))


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(9)), count=st.integers(1, 9))
def test_a_row_is_the_same_in_any_company(order: list[int], count: int) -> None:
    x, residual, weight = operands(9, 123, torch.float32)
    full = add_rms_norm(x, residual, weight, EPS, backend="triton")
    some = order[:count]
    part = add_rms_norm(x[some], residual[some], weight, EPS, backend="triton")
    assert torch.equal(part[0], full[0][some])
    assert torch.equal(part[1], full[1][some])


def test_operators_are_sound_for_torch_compile() -> None:
    x, residual, weight = operands(5, 64, torch.float32)
    torch.library.opcheck(norm_forward.rms_norm_forward.twin, (x, weight, EPS, True))
    torch.library.opcheck(norm_forward.add_rms_norm_forward.twin, (x, residual, weight, EPS, False))


@pytest.mark.parametrize(
    ("x", "weight", "error", "message"),
    [
        (torch.ones(()), torch.ones(1), ValueError, r"x has shape \(\); its last axis"),
        (torch.ones(2, 0), torch.ones(0), ValueError, "must have 1 to 32768"),
        (torch.ones(1, 32769), torch.ones(32769), ValueError, "must have 1 to 32768"),
        (
            torch.ones(2, 4),
            torch.ones(5),
            ValueError,
            r"weight has shape \(5,\); it must be \(4,\)",
        ),
        (torch.ones(2, 4).int(), torch.ones(4), TypeError, "x is int32; pass float32"),
        (torch.ones(2, 4), torch.ones(4).int(), TypeError, "weight is int32; pass float32"),
        (torch.ones(2, 4), torch.ones(4, device="meta"), ValueError, "weight is on meta, but x"),
    ],
)
def test_bad_operands_are_named(
    x: Tensor, weight: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        rms_norm(x, weight, EPS)


def test_a_residual_or_an_output_of_another_form_is_refused() -> None:
    x, weight = torch.ones(2, 4), torch.ones(4)
    with pytest.raises(ValueError, match=r"residual has shape \(4,\); it must be \(2, 4\)"):
        add_rms_norm(x, torch.ones(4), weight, EPS)
    with pytest.raises(TypeError, match=r"residual is torch\.float16"):
        add_rms_norm(x, x.half(), weight, EPS)
    with pytest.raises(ValueError, match=r"out has shape \(2, 5\)"):
        rms_norm(x, weight, EPS, out=torch.ones(2, 5))
    with pytest.raises(TypeError, match="out is float16; pass float32"):
        rms_norm(x, weight, EPS, out=x.half())


# Each is a plausible slip; the checks below must catch every one of them.
PLANTED_BUGS = {
    "eps forgotten": ("/ hidden_size + eps", "/ hidden_size"),
    "mean over the block": ("/ hidden_size + eps", "/ x.shape[1] + eps"),
    "columns unmasked": ("in_row = columns < hidden_size", "in_row = columns < 1 << 30"),
    "rows unmasked": ("inside = (row < rows)[:, None]", "inside = (row < 1 << 30)[:, None]"),
    "stride of x taken for width": ("row[:, None] * x_stride", "row[:, None] * hidden_size"),
    "output stride taken for width": (
        "row[:, None] * normed_stride",
        "row[:, None] * hidden_size",
    ),
    "norm of x alone": ("x = total.to(tl.float32)", "total = total"),
    "rounded once": (".to(dtype).to(tl.float32)", ""),
}


def check(module: ModuleType) -> None:
    for dtype in DTYPES[:2]:
        x, residual, weight = operands(6, 123, dtype)
        total = x + residual
        buffers, views = zip(*(guarded(6, 123, dtype=dtype) for _ in range(2)), strict=True)
        module.launch_rms_norm(
            views[0], None, views[1], surrounded(x), surrounded(residual), surrounded(weight), EPS
        )
        assert torch.equal(views[1], total)
        expected = truth(total, weight)
        assert_accurate("normed", views[0].clone(), expected, TOLERANCE[dtype])
        if dtype == torch.bfloat16:
            assert torch.equal(views[0], rms_norm_reference(total, weight, EPS))
        for buffer, view in zip(buffers, views, strict=True):
            assert_guard_untouched(buffer, view)
    tiny, ones, normed = torch.full((1, 64), 1e-4), torch.ones(64), torch.empty(1, 64)
    module.launch_rms_norm(normed, None, None, tiny, None, ones, EPS)
    assert_accurate("tiny", normed, truth(tiny, ones), 1e-6)


test_planted_bugs_are_caught = each_caught(norm_forward, PLANTED_BUGS, check)
