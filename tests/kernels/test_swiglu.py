"""Gated units against fp64, forward and backward, in both forms. Knows nothing of models."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.layers import swiglu_kernel
from kernels.swiglu import (
    geglu,
    geglu_packed,
    geglu_reference,
    swiglu,
    swiglu_packed,
    swiglu_reference,
)
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

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp")
TWO: dict[str, Callable[..., Tensor]] = {"swiglu": swiglu, "geglu": geglu}
ONE: dict[str, Callable[..., Tensor]] = {"swiglu": swiglu_packed, "geglu": geglu_packed}
REFERENCE = {"swiglu": swiglu_reference, "geglu": geglu_reference}
# rows, inner: an odd width, one value, one whole piece, pieces and a rest
SHAPES = [(5, 123), (1, 1), (2, 1024), (3, 2345)]
# RMS of the error over RMS of the truth; the worst measured are 1.6e-7, 2.4e-4 and 2.5e-3 forward,
# 2.0e-7, 2.2e-4 and 1.8e-3 backward
FORWARD = {torch.float32: 3.2e-7, torch.float16: 4.8e-4, torch.bfloat16: 5e-3}
BACKWARD = {torch.float32: 4e-7, torch.float16: 4.4e-4, torch.bfloat16: 3.6e-3}


def operands(shape: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return draw(*shape, seed=1).mul(3).to(dtype), draw(*shape, seed=2).to(dtype)


def truth(unit: str, gate: Tensor, up: Tensor) -> Tensor:
    x = gate.double()
    if unit == "swiglu":
        return x / (1 + torch.exp(-x)) * up.double()
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return x / 2 * (1 + torch.tanh(inner)) * up.double()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("unit", TWO)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_forms_agree_with_the_formula_in_fp64(
    shape: tuple[int, int], dtype: torch.dtype, unit: str, backend: str
) -> None:
    gate, up = operands(shape, dtype)
    out = TWO[unit](gate, up, backend=backend)
    assert out.dtype == dtype
    eager = REFERENCE[unit](gate, up)
    assert_accurate(unit, out, truth(unit, gate, up), FORWARD[dtype], eager)
    assert_same(ONE[unit](torch.cat((gate, up), -1), backend=backend), out, backend)


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("unit", TWO)
def test_large_gates_pass_or_close(unit: str, backend: str) -> None:
    gate = torch.tensor([[-1e4, -200.0, -88.0, 0.0, 88.0, 200.0, 1e4]])
    ones = torch.ones_like(gate)
    out = TWO[unit](gate, ones, backend=backend)
    torch.testing.assert_close(out, gate.clamp_min(0), atol=1e-34, rtol=0)
    d_gate, _ = gradients_of(partial(TWO[unit], backend=backend), (gate, ones), [ones])
    expected = (gate.sign() + 1) / 2
    torch.testing.assert_close(d_gate, expected, atol=1e-25, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_leading_axes_strides_and_empty_batches(backend: str) -> None:
    gate, up = operands((6, 123), torch.float32)
    expected = swiglu(gate, up, backend=backend)
    halves = torch.cat((gate, up), -1).view(2, 3, 246).chunk(2, dim=-1)
    for ours in (
        swiglu(spread(gate), spread(up), backend=backend),
        swiglu(surrounded(gate), surrounded(up), backend=backend),
        swiglu(*halves, backend=backend).flatten(0, 1),
        swiglu_packed(surrounded(torch.cat((gate, up), -1)), backend=backend),
    ):
        assert_same(ours, expected, backend)
    assert swiglu(gate[:0], up[:0], backend=backend).shape == (0, 123)
    assert swiglu_packed(gate[:0, :122], backend=backend).shape == (0, 61)


@pytest.mark.parametrize("backend", BACKENDS)
def test_out_is_written_and_nothing_around_it(backend: str) -> None:
    gate, up = operands((6, 123), torch.float32)
    expected = swiglu(gate, up, backend=backend)
    buffer, view = guarded(6, 123)
    assert swiglu(gate, up, out=view, backend=backend) is view
    assert_same(view, expected, backend)
    assert_guard_untouched(buffer, view)
    swiglu_packed(torch.cat((gate, up), -1), out=view, backend=backend)
    assert_same(view, expected, backend)
    swiglu(gate, up, out=gate, backend=backend)
    assert_same(gate, expected, backend)


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(6)), count=st.integers(1, 6))
def test_a_row_is_the_same_in_any_company(order: list[int], count: int) -> None:
    gate, up = operands((6, 123), torch.float32)
    some = order[:count]
    part = swiglu(gate[some], up[some], backend="triton")
    assert torch.equal(part, swiglu(gate, up, backend="triton")[some])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("unit", TWO)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [s for s in SHAPES if s != (1, 1)], ids=str)
def test_gradients_agree_with_fp64(
    shape: tuple[int, int], dtype: torch.dtype, unit: str, backend: str
) -> None:
    leaves, upstream = operands(shape, dtype), [draw(*shape, dtype=dtype, seed=3)]

    def gradients(backend: str) -> list[Tensor]:
        return gradients_of(lambda g, u: TWO[unit](g, u, backend=backend), leaves, upstream)

    expected = gradients_of(
        lambda g, u: truth(unit, g, u), [x.double() for x in leaves], [upstream[0].double()]
    )
    ours, eager = gradients(backend), gradients("torch")
    for name, *compared in zip(("gate", "up"), ours, expected, eager, strict=True):
        assert_accurate(f"d_{name}", compared[0], compared[1], BACKWARD[dtype], compared[2])
    whole = gradients_of(lambda x: ONE[unit](x, backend=backend), [torch.cat(leaves, -1)], upstream)
    assert_same(whole[0], torch.cat(ours, -1), backend)


@pytest.mark.parametrize("unit", TWO)
def test_the_references_have_the_gradients_of_the_formula(unit: str) -> None:
    leaves = [x.double().requires_grad_() for x in operands((2, 5), torch.float32)]
    assert torch.autograd.gradcheck(REFERENCE[unit], leaves)


def test_gradients_of_any_stride() -> None:
    leaves, upstream = operands((6, 123), torch.float32), draw(6, 123, seed=3)
    expected = gradients_of(partial(swiglu, backend="triton"), leaves, [upstream])
    for gradient in (spread(upstream), surrounded(upstream)):
        ours = gradients_of(partial(swiglu, backend="triton"), leaves, [gradient])
        assert all(map(torch.equal, ours, expected))
    one, row = torch.ones(()).expand(6, 123), torch.ones(6, 123)
    ours, expected = (
        gradients_of(partial(swiglu, backend="triton"), leaves, [g]) for g in (one, row)
    )
    assert all(map(torch.equal, ours, expected))


def test_operators_are_sound_for_torch_compile() -> None:
    gate, up = operands((3, 64), torch.float32)
    both = torch.cat((gate, up), -1)
    torch.library.opcheck(swiglu_kernel.gated.twin, (gate, up, False))
    torch.library.opcheck(swiglu_kernel.gated_backward.twin, (gate, gate, up, True))
    torch.library.opcheck(swiglu_kernel.packed.twin, (both, True))
    torch.library.opcheck(swiglu_kernel.packed_backward.twin, (gate, both, False))


def test_both_forms_compile_without_a_graph_break() -> None:
    def mlp(gate: Tensor, up: Tensor) -> Tensor:
        inner = swiglu(gate, up, backend="triton")
        return geglu_packed(torch.cat((inner, up), -1), backend="triton")

    leaves, upstream = operands((3, 64), torch.float32), [draw(3, 64, seed=3)]
    compiled = torch.compile(mlp, fullgraph=True, backend="aot_eager")
    expected = gradients_of(mlp, leaves, upstream)
    for ours, eager in zip(gradients_of(compiled, leaves, upstream), expected, strict=True):
        torch.testing.assert_close(ours, eager)


X = torch.ones(2, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: swiglu(torch.ones(()), torch.ones(())), ValueError, r"gate has shape \(\)"),
        (lambda: swiglu(X[:, :0], X[:, :0]), ValueError, "last axis must have values"),
        (lambda: swiglu(X, X[:1]), ValueError, r"up has shape \(1, 4\); it must be \(2, 4\)"),
        (lambda: swiglu(X.int(), X.int()), TypeError, "gate is int32; pass float32"),
        (
            lambda: swiglu(X, X.half()),
            TypeError,
            r"up is torch\.float16; it must",
        ),
        (lambda: swiglu(X, X.to("meta")), ValueError, "up is on meta, but gate is on cpu"),
        (lambda: swiglu(X, X, out=X.half()), TypeError, "out is float16; pass float32"),
        (lambda: swiglu_packed(X[:, :3]), ValueError, r"gate_up has shape .* must be even"),
        (lambda: swiglu_packed(X, out=X), ValueError, r"out has shape \(2, 4\); .* \(2, 2\)"),
    ],
)
def test_bad_operands_are_named(
    call: Callable[[], Tensor], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()


# Each is a plausible slip; the checks below must catch every one of them.
PLANTED_BUGS = {
    "activation of the other half": (
        "out = gate * tl.sigmoid(sigmoid_argument(gate, TANH)) * up",
        "out = up * tl.sigmoid(sigmoid_argument(up, TANH)) * gate",
    ),
    "columns unmasked": ("columns, columns < inner_size", "columns, columns < 1 << 30"),
    "row of the piece": ("(program // pieces)", "(program % pieces)"),
    "output stride taken for width": ("row * out_stride", "row * inner_size"),
    "cube forgotten": ("0.044715 * gate * gate * gate", "0.044715 * gate * gate"),
    "tanh without the doubled argument": (
        "return 1.5957691216057308 * (gate",
        "return 0.7978845608028654 * (gate",
    ),
    "slope of the cube": ("0.134145", "0.044715"),
    "sigmoid's slope forgotten": ("* (1.0 + gate * rest * slope)", ""),
    "gradients exchanged": ("d_up_ptr + at_up, d_up.to", "d_up_ptr + at_up, d_gate.to"),
    "up left out of the gate's gradient": ("gradient * up * weight", "gradient * weight"),
}


def check(module: ModuleType) -> None:
    gate, up = operands((5, 123), torch.float32)
    gradient = draw(5, 123, seed=3)
    inputs = surrounded(gate), torch.cat((up, up), -1)[:, 123:]
    for unit in TWO:
        frames = [guarded(5, 123) for _ in range(3)]
        out, d_gate, d_up = (view for _, view in frames)
        module.launch_gated(out, *inputs, unit == "geglu")
        module.launch_gated_backward(d_gate, d_up, gradient, *inputs, unit == "geglu")
        assert_accurate("out", out.clone(), truth(unit, gate, up), FORWARD[torch.float32])
        expected = gradients_of(
            partial(truth, unit), (gate.double(), up.double()), [gradient.double()]
        )
        for ours, wanted in zip((d_gate, d_up), expected, strict=True):
            assert_accurate("gradient", ours.clone(), wanted, BACKWARD[torch.float32])
        for buffer, view in frames:
            assert_guard_untouched(buffer, view)


test_planted_bugs_are_caught = each_caught(swiglu_kernel, PLANTED_BUGS, check)
