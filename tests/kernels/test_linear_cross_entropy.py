"""linear_cross_entropy against all logits at once in fp64. Knows nothing of models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.linear_cross_entropy import linear_cross_entropy, linear_operator
from kernels.losses import token_chunks
from kernels.losses.cross_entropy_rows import Terms, cross_entropy_reference
from tests.kernels.allocations import LargestTensor
from tests.kernels.truth import BACKENDS, assert_accurate, draw, spread

# Interpreted lanes that no result takes in compute with infinities.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
# tokens, hidden, vocabulary, tokens in a chunk: one, a tail, more than there are, all but one
SHAPES = [(5, 16, 33, 1), (7, 24, 123, 3), (4, 16, 33, 100), (6, 1, 2, 5)]
TERMS = Terms(ignore_index=3, label_smoothing=0.1, z_loss=0.01, softcap=5.0)
UPSTREAM = 1.7
# RMS of the error over RMS of the truth; the worst measured are 2.8e-7 and, in bf16, 2.9e-3.
TOLERANCES = {torch.float32: 5e-7, torch.bfloat16: 5e-3}
# cuBLAS sums 151,936 products in an order of its own; an H200 showed 1.3e-6 and 6.2e-3 at most.
MODEL_TOLERANCES = {torch.float32: 2.6e-6, torch.bfloat16: 1.2e-2}


def case(
    tokens: int, hidden: int, vocabulary: int, dtype: torch.dtype = torch.float32
) -> tuple[list[Tensor], Tensor]:
    """(hidden, weight, bias) and targets, a third of which are ignored at -100."""
    operands = [draw(tokens, hidden), draw(vocabulary, hidden) * hidden**-0.5, draw(vocabulary)]
    targets = torch.arange(tokens) * 7 % vocabulary
    targets[1::3] = -100
    return [operand.to(dtype).requires_grad_() for operand in operands], targets


def gradients(loss: Tensor, operands: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad((loss * UPSTREAM).sum(), operands, retain_graph=True)


def truth(operands: list[Tensor], targets: Tensor, reduction: str) -> tuple[Tensor, ...]:
    """Loss and gradients through torch's own cross-entropy, in fp64."""
    exact = [operand.detach().double().requires_grad_() for operand in operands]
    loss = F.cross_entropy(F.linear(*exact), targets, reduction=reduction)
    return loss.detach(), *gradients(loss, exact)


def check(
    function: Any, shape: tuple[int, ...], dtype: torch.dtype, reduction: str, backend: str
) -> None:
    operands, targets = case(shape[0], shape[1], shape[2], dtype)
    hidden, weight, bias = operands
    loss = function(
        hidden,
        weight,
        targets,
        bias=bias,
        reduction=reduction,
        chunk_tokens=shape[3],
        backend=backend,
    )
    assert loss.dtype == torch.float32
    eager = F.cross_entropy(F.linear(*operands), targets, reduction=reduction)
    expected = truth(operands, targets, reduction)
    actual, plain = gradients(loss, operands), gradients(eager, operands)
    limit = TOLERANCES[dtype]
    assert_accurate("loss", loss.detach(), expected[0], limit, eager.detach())
    for name, found, wanted, other in zip(
        ("hidden", "weight", "bias"), actual, expected[1:], plain, strict=True
    ):
        assert found.dtype == dtype
        assert_accurate(name, found, wanted, limit, other)
    for found, again in zip(actual, gradients(loss, operands), strict=True):
        assert torch.equal(found, again)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_all_logits_in_fp64(
    shape: tuple[int, ...], reduction: str, backend: str
) -> None:
    check(linear_cross_entropy, shape, torch.float32, reduction, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_bfloat16_sums_in_float32(reduction: str, backend: str) -> None:
    check(linear_cross_entropy, (64, 24, 65, 7), torch.bfloat16, reduction, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_term_reaches_the_operands(backend: str) -> None:
    operands, targets = case(7, 24, 123)
    targets[0] = TERMS.ignore_index
    targets[1::3] = 5
    hidden, weight, bias = operands
    exact = [operand.detach().double().requires_grad_() for operand in operands]
    losses = cross_entropy_reference(F.linear(*exact), targets, TERMS)
    expected = gradients(losses.sum() / 6, exact)
    loss = linear_cross_entropy(
        hidden, weight, targets, bias=bias, **TERMS._asdict(), chunk_tokens=3, backend=backend
    )
    assert_accurate("loss", loss.detach(), losses.detach().sum() / 6, 5e-7)
    for found, wanted in zip(gradients(loss, operands), expected, strict=True):
        assert_accurate("gradient", found, wanted, 5e-7)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradcheck(reduction: str) -> None:
    operands, targets = case(5, 4, 9, torch.float64)

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        terms = TERMS._replace(ignore_index=-100)._asdict()
        return linear_cross_entropy(
            hidden, weight, targets, bias=bias, **terms, reduction=reduction, chunk_tokens=2
        )

    assert torch.autograd.gradcheck(loss, operands)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("trained", [(True, False), (False, True), (False, False)])
def test_computes_the_gradients_that_are_wanted(
    trained: tuple[bool, bool], reduction: str, backend: str
) -> None:
    (hidden, weight, _), targets = case(5, 8, 17)
    wanted = [x for x, want in zip((hidden, weight), trained, strict=True) if want]
    rows = hidden if trained[0] else hidden.detach()
    frozen = weight if trained[1] else weight.detach()
    loss = linear_cross_entropy(rows, frozen, targets, reduction=reduction, backend=backend)
    eager = F.cross_entropy(F.linear(hidden, weight), targets, reduction=reduction)
    assert loss.requires_grad == any(trained)
    assert_accurate("loss", loss.detach(), eager.detach(), 5e-7)
    for found, plain in zip(
        gradients(loss, wanted) if wanted else (),
        gradients(eager, wanted) if wanted else (),
        strict=True,
    ):
        assert_accurate("gradient", found, plain, 5e-7)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_logits_of_all_tokens_never_exist(reduction: str, backend: str) -> None:
    (hidden, weight, _), targets = case(64, 4, 512)
    with LargestTensor() as largest:
        loss = linear_cross_entropy(
            hidden, weight, targets, reduction=reduction, chunk_tokens=8, backend=backend
        )
        gradients(loss, [hidden, weight])
    assert largest.bytes == 8 * 512 * hidden.element_size()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_no_tokens_give_zero_gradients(reduction: str, backend: str) -> None:
    (hidden, weight, bias), targets = case(0, 8, 17)
    loss = linear_cross_entropy(
        hidden, weight, targets, bias=bias, reduction=reduction, backend=backend
    )
    assert loss.shape == (() if reduction == "mean" else (0,))
    assert loss.sum().item() == 0.0
    for gradient, operand in zip(
        gradients(loss, [hidden, weight, bias]), (hidden, weight, bias), strict=True
    ):
        assert gradient.shape == operand.shape
        assert (gradient == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_operands_are_read_in_place_or_copied(backend: str) -> None:
    (hidden, weight, _), targets = case(5, 8, 17)
    expected = linear_cross_entropy(hidden, weight, targets, backend=backend)
    wide = torch.cat((hidden, hidden), dim=1)[:, :8]
    for rows, columns in ((spread(hidden), spread(weight)), (wide, weight)):
        actual = linear_cross_entropy(rows, columns, targets, backend=backend)
        assert_accurate("loss", actual.detach(), expected.detach(), 1e-7)


@settings(max_examples=20, deadline=None)
@given(chunk=st.integers(1, 12), backend=st.sampled_from(BACKENDS))
def test_the_chunk_changes_the_sums_order_alone(chunk: int, backend: str) -> None:
    (hidden, weight, _), targets = case(11, 8, 17)
    whole, parts = (
        linear_cross_entropy(hidden, weight, targets, chunk_tokens=size, backend=backend)
        for size in (None, chunk)
    )
    for one, other in zip(
        gradients(parts, [hidden, weight]), gradients(whole, [hidden, weight]), strict=True
    ):
        assert_accurate("gradient", one, other, 5e-7)


def test_a_second_derivative_is_refused() -> None:
    (hidden, weight, _), targets = case(3, 4, 9)
    loss = linear_cross_entropy(hidden, weight, targets)
    (first,) = torch.autograd.grad(loss, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        torch.autograd.grad(first.sum(), weight)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiles_whole(reduction: str) -> None:
    (hidden, weight, bias), targets = case(5, 8, 17)

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return linear_cross_entropy(
            hidden, weight, targets, bias=bias, reduction=reduction, chunk_tokens=2
        )

    operands = [hidden, weight, bias]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(*operands)
    pairs = zip(gradients(compiled, operands), gradients(loss(*operands), operands), strict=True)
    assert all(torch.allclose(one, other, rtol=1e-6, atol=1e-7) for one, other in pairs)


def test_operator_passes_opcheck() -> None:
    (hidden, weight, bias), targets = case(5, 8, 17)
    operands = [x.detach() for x in (hidden, weight, bias)]
    rest = (torch.ones(5), [True, False, True], targets, *Terms(), 2, "torch")
    torch.library.opcheck(linear_operator.twin, (*operands, *rest))


@pytest.mark.parametrize(
    ("tokens", "vocabulary", "dtype", "expected"),
    [
        (1024, 151_936, torch.float32, 96),  # 56 MiB hold 96 rows; products want multiples of 32
        (1024, 1000, torch.float32, 1024),
        (20_000, 1000, torch.float32, 10_016),  # two chunks, not 14,680 and a remainder
        (0, 1000, torch.float32, 1),
        (10, 1 << 26, torch.float32, 10),
    ],
)
def test_chunks_are_few_and_even(
    tokens: int, vocabulary: int, dtype: torch.dtype, expected: int
) -> None:
    hidden = torch.empty(tokens, 1, dtype=dtype)
    assert token_chunks.chunk_size(hidden, vocabulary) == expected


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"hidden": torch.ones(4)}, ValueError, r"hidden has shape \(4,\); it must be \(tokens"),
        ({"weight": torch.ones(9, 5)}, ValueError, r"weight has shape \(9, 5\); it must be \(voc"),
        ({"weight": torch.ones(0, 4)}, ValueError, "weight has no rows"),
        ({"weight": torch.ones(9, 4).half()}, TypeError, "weight is torch.float16; it must be"),
        ({"hidden": torch.ones(3, 4).int()}, TypeError, "hidden is int32; pass float32"),
        ({"bias": torch.ones(8)}, ValueError, r"bias has shape \(8,\); it must be \(9,\)"),
        ({"targets": torch.ones(2).long()}, ValueError, r"targets has shape \(2,\)"),
        ({"chunk_tokens": 0}, ValueError, "chunk_tokens is 0; pass 1 or more, or None"),
        ({"reduction": "avg"}, ValueError, "reduction is 'avg'"),
        ({"label_smoothing": -0.5}, ValueError, "label_smoothing is -0.5"),
    ],
)
def test_bad_operands_are_named(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    operands: dict[str, Any] = {
        "hidden": torch.ones(3, 4),
        "weight": torch.ones(9, 4),
        "targets": torch.ones(3).long(),
    }
    with pytest.raises(error, match=message):
        linear_cross_entropy(**operands | changes)
