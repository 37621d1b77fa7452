"""cross_entropy against torch's in fp64, plain and in place. Knows nothing of linear layers."""

from __future__ import annotations

import itertools
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import cross_entropy as module
from kernels.cross_entropy import cross_entropy
from kernels.losses.cross_entropy_rows import Terms, cross_entropy_reference
from tests.kernels.truth import (
    BACKENDS,
    assert_accurate,
    draw,
    spread,
)

# Interpreted lanes that no result takes in compute with infinities.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# rows, vocabulary: one row, odd, a block and a tail, three blocks and a tail
SHAPES = [(1, 5), (4, 123), (3, 4097), (2, 13_001)]
TERMS = [
    Terms(),
    Terms(label_smoothing=0.1),
    Terms(z_loss=0.01),
    Terms(softcap=5.0),
    Terms(ignore_index=2, label_smoothing=0.2, z_loss=0.01, softcap=3.0),
]
UPSTREAM = 1.7
# RMS of the error over RMS of the truth: losses are float32, the worst measured is 1.8e-7.
TOLERANCE = 3.6e-7
# Gradients, in the logits' dtype; the worst measured are 2.7e-7, 1.9e-3 and 4.2e-4.
TOLERANCES = {torch.float32: 5e-7, torch.bfloat16: 3.7e-3, torch.float16: 8e-4}


def case(rows: int, vocabulary: int, ignore_index: int = -100) -> tuple[Tensor, Tensor]:
    """Logits and targets; every fourth row is ignored."""
    targets = draw(rows, 7).abs().mul(1e4).long().sum(1) % vocabulary
    targets[1::4] = ignore_index
    return draw(rows, vocabulary).mul(3), targets


def truth(logits: Tensor, targets: Tensor, terms: Terms) -> Tensor:
    """Losses (N,) through torch's own cross-entropy, in fp64."""
    x = logits.double()
    if terms.softcap is not None:
        x = terms.softcap * torch.tanh(x / terms.softcap)
    plain = F.cross_entropy(
        x,
        targets,
        ignore_index=terms.ignore_index,
        label_smoothing=terms.label_smoothing,
        reduction="none",
    )
    z = terms.z_loss * x.logsumexp(-1).square()
    return plain + z.where(targets != terms.ignore_index, 0.0)


def mean_of(losses: Tensor, targets: Tensor, terms: Terms) -> Tensor:
    return losses.sum() / (targets != terms.ignore_index).sum().clamp_min(1)


def trained(loss: Tensor, operand: Tensor) -> Tensor:
    return torch.autograd.grad(loss * UPSTREAM, operand, retain_graph=True)[0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("inplace", [False, True], ids=["kept", "in place"])
@pytest.mark.parametrize("terms", TERMS, ids=str)
def test_loss_and_gradient_agree_with_torch_in_fp64(
    terms: Terms, inplace: bool, backend: str
) -> None:
    for shape in SHAPES:
        check_training(module, *shape, torch.float32, terms, inplace, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_narrow_logits_lose_only_what_the_gradient_rounds(dtype: torch.dtype, backend: str) -> None:
    for terms, inplace in itertools.product((TERMS[0], TERMS[-1]), (False, True)):
        check_training(module, 4, 1003, dtype, terms, inplace, backend)


def check_training(
    found: ModuleType,
    rows: int,
    vocabulary: int,
    dtype: torch.dtype,
    terms: Terms,
    inplace: bool,
    backend: str,
) -> None:
    logits, targets = case(rows, vocabulary, terms.ignore_index)
    leaf = logits.to(dtype).requires_grad_()
    exact = leaf.detach().double().requires_grad_()
    expected = mean_of(truth(exact, targets, terms), targets, terms)
    slope = trained(expected, exact)
    actual = found.cross_entropy(
        leaf * 1, targets, **terms._asdict(), inplace=inplace, backend=backend
    )
    assert actual.dtype == torch.float32
    assert_accurate("loss", actual.detach(), expected.detach(), TOLERANCE)
    eager_leaf = leaf.detach().requires_grad_()
    eager = mean_of(cross_entropy_reference(eager_leaf, targets, terms), targets, terms)
    gradient = trained(actual, leaf)
    assert gradient.dtype == dtype
    eager_gradient = trained(eager, eager_leaf)
    assert_accurate("gradient", gradient, slope, TOLERANCES[dtype], eager_gradient)
    assert (gradient[targets == terms.ignore_index] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_losses_of_rows_take_any_upstream_gradient_twice(backend: str) -> None:
    logits, targets = case(5, 123)
    factors = draw(5, seed=3)
    leaf, exact = logits.clone().requires_grad_(), logits.double().requires_grad_()
    losses = cross_entropy(leaf, targets, reduction="none", backend=backend)
    expected = truth(exact, targets, Terms())
    assert_accurate("losses", losses.detach(), expected.detach(), TOLERANCE)
    (slope,) = torch.autograd.grad((expected * factors).sum(), exact)
    first, second = (
        torch.autograd.grad((losses * factors).sum(), leaf, retain_graph=True)[0] for _ in range(2)
    )
    assert_accurate("gradient", first, slope, TOLERANCES[torch.float32])
    assert torch.equal(first, second)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("inplace", [False, True])
def test_sum_and_no_gradient_wanted(inplace: bool, backend: str) -> None:
    logits, targets = case(6, 123)
    kept = logits.clone()
    with torch.no_grad():
        actual = cross_entropy(logits, targets, reduction="sum", inplace=inplace, backend=backend)
    assert_accurate("loss", actual, truth(kept, targets, Terms()).sum(), TOLERANCE)
    assert torch.equal(logits, kept)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("rows", [0, 3])
def test_nothing_that_counts_gives_zero_loss_and_gradient(
    rows: int, inplace: bool, backend: str
) -> None:
    leaf = draw(rows, 17).requires_grad_()
    targets = torch.full((rows,), -100)
    loss = cross_entropy(leaf * 1, targets, inplace=inplace, backend=backend)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0.0
    assert leaf.grad is not None
    assert leaf.grad.shape == leaf.shape
    assert (leaf.grad == 0).all()


def test_backward_through_the_gradient_in_place_runs_once() -> None:
    logits, targets = case(2, 9)
    loss = cross_entropy(logits.requires_grad_() * 1, targets, inplace=True)
    loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="backward ran again through cross_entropy"):
        loss.backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("backend", BACKENDS)
def test_losses_of_rows_in_place_take_any_upstream_gradient(backend: str) -> None:
    logits, targets = case(5, 123)
    factors = draw(5, seed=3)
    exact, place = logits.double().requires_grad_(), logits.clone()
    leaf = place.requires_grad_()
    losses = cross_entropy(leaf, targets, reduction="none", inplace=True, backend=backend)
    assert torch.equal(place, logits)
    (slope,) = torch.autograd.grad((truth(exact, targets, Terms()) * factors).sum(), exact)
    (losses * factors).sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    assert_accurate("gradient", leaf.grad, slope, TOLERANCES[torch.float32])
    assert torch.equal(leaf.grad, place), "the gradient lies where the logits were"


@pytest.mark.parametrize("backend", BACKENDS)
def test_masked_logits_have_no_probability(backend: str) -> None:
    logits, targets = case(4, 123)
    targets.clamp_(0, 40)
    logits[:, 50:60] = -torch.inf
    logits[:, 60:70] = torch.finfo(torch.bfloat16).min
    leaf, exact = logits.requires_grad_(), logits.detach().double().requires_grad_()
    loss = cross_entropy(leaf, targets, backend=backend)
    expected = truth(exact, targets, Terms()).mean()
    assert_accurate("loss", loss.detach(), expected.detach(), TOLERANCE)
    gradient = trained(loss, leaf)
    assert_accurate("gradient", gradient, trained(expected, exact), TOLERANCE)
    assert (gradient[:, 50:70] == 0).all()


def test_triton_reports_a_target_outside_the_vocabulary_as_nan() -> None:
    losses = cross_entropy(draw(3, 8), torch.tensor([8, 2, -1]), reduction="none", backend="triton")
    assert losses.isnan().tolist() == [True, False, True]


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_operands_are_read_in_place_or_copied(backend: str) -> None:
    logits, targets = case(6, 123)
    expected = cross_entropy(logits, targets, backend=backend)
    every_other = torch.stack((logits, logits + 1), dim=1).flatten(0, 1)[::2]
    for view in (spread(logits), every_other):
        assert torch.equal(cross_entropy(view, spread(targets), backend=backend), expected)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(6)), count=st.integers(1, 6))
def test_a_row_loses_the_same_in_any_company(order: list[int], count: int) -> None:
    logits, targets = case(6, 300)
    full = cross_entropy(logits, targets, reduction="none", backend="triton")
    chosen = order[:count]
    some = cross_entropy(logits[chosen], targets[chosen], reduction="none", backend="triton")
    assert torch.equal(some, full[chosen])


@pytest.mark.parametrize("terms", TERMS, ids=str)
def test_reference_passes_gradcheck(terms: Terms) -> None:
    logits, targets = case(4, 7, terms.ignore_index)
    exact = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: cross_entropy_reference(x, targets, terms), exact)


def test_operators_pass_opcheck_and_compile_whole() -> None:
    logits, targets = case(3, 20)
    settings_of = tuple(Terms())
    losses, lse = module.losses_operator(logits, targets, *settings_of)
    torch.library.opcheck(module.losses_operator.twin, (logits, targets, *settings_of))
    operands = (logits, targets, lse, torch.ones(3), *settings_of)
    torch.library.opcheck(module.gradient_operator.twin, operands)

    def loss(x: Tensor) -> Tensor:
        return cross_entropy(x, targets, backend="triton")

    leaf = logits.requires_grad_()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(leaf), loss(leaf))
    assert torch.equal(trained(compiled(leaf), leaf), trained(loss(leaf), leaf))
    assert losses.shape == (3,)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"logits": torch.ones(4)}, ValueError, r"logits has shape \(4,\); it must be \(rows, voc"),
        ({"logits": torch.ones(2, 0)}, ValueError, "logits have no columns"),
        ({"logits": torch.ones(2, 3).double()}, TypeError, "logits is float64"),
        ({"targets": torch.ones(3).long()}, ValueError, r"targets has shape \(3,\); it must be"),
        ({"targets": torch.ones(2).int()}, TypeError, "targets is int32; pass int64"),
        ({"reduction": "avg"}, ValueError, "reduction is 'avg'"),
        ({"logits": torch.ones(3, 2).T, "inplace": True}, ValueError, "contiguous rows"),
        ({"label_smoothing": 1.5}, ValueError, r"label_smoothing is 1.5; pass 0 to 1"),
        ({"z_loss": -1.0}, ValueError, "z_loss is -1.0"),
        ({"softcap": 0.0}, ValueError, "softcap is 0.0"),
        ({"backend": "cuda"}, ValueError, "backend is 'cuda'"),
    ],
)
def test_bad_operands_are_named(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    operands: dict[str, Any] = {"logits": torch.ones(2, 3), "targets": torch.ones(2).long()}
    with pytest.raises(error, match=message):
        cross_entropy(**operands | changes)
