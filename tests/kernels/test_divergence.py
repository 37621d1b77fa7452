"""divergence against torch's KL in fp64, every kind. Knows nothing of linear layers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import divergence as module
from kernels.divergence import divergence
from kernels.losses.divergence_mix import Mix, distillation_reference
from kernels.losses.divergence_terms import MIXTURES, NEEDS_TEACHER_SUPPORT
from tests.kernels.divergence_truth import distillation
from tests.kernels.truth import (
    BACKENDS,
    assert_accurate,
    draw,
    spread,
)

# Interpreted lanes that no result takes in compute with infinities.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
KINDS = list(MIXTURES)
# rows, vocabulary: one row, odd, a block and a tail, two blocks and a tail
SHAPES = [(1, 70), (4, 123), (2, 2049), (2, 4500)]
UPSTREAM = 1.7
# RMS of the error over RMS of the truth, fp32: the worst measured are 4.0e-7 and 4.4e-7.
LOSS_TOLERANCE, TOLERANCE = 8e-7, 8.8e-7
# A gradient in bf16 or fp16 loses what rounding takes: measured 2.0e-3 and 2.5e-4.
TOLERANCES = {torch.float32: TOLERANCE, torch.bfloat16: 4e-3, torch.float16: 5e-4}


def mixture_of(kind: str) -> float:
    return MIXTURES[kind] or 0.0


def case(rows: int, vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    """Student, a teacher not far from it, and targets; every fourth row is ignored."""
    student, noise = draw(rows, vocabulary).mul(2), draw(rows, vocabulary, seed=1)
    targets = torch.arange(rows) * 31 % vocabulary
    targets[1::4] = -100
    return student, student * 0.5 + noise, targets


def slope_of(loss: Tensor, operand: Tensor) -> Tensor:
    return torch.autograd.grad(loss * UPSTREAM, operand, retain_graph=True)[0]


def check_training(
    shape: tuple[int, int], dtype: torch.dtype, backend: str, kind: str, **options: Any
) -> None:
    student, teacher, targets = case(*shape)
    leaf, teacher = student.to(dtype).requires_grad_(), teacher.to(dtype)
    exact = leaf.detach().double().requires_grad_()
    count = (targets != -100).sum()
    expected = (
        distillation(kind, mixture_of(kind), exact, teacher, targets, **options).sum() / count
    )
    loss = divergence(leaf, teacher, targets, kind=kind, backend=backend, **options)
    assert loss.dtype == torch.float32
    mix = Mix(kind, mixture_of(kind), **options)
    eager_leaf = leaf.detach().requires_grad_()
    eager = distillation_reference(eager_leaf, teacher, targets, mix).sum() / count
    assert_accurate("loss", loss.detach(), expected.detach(), LOSS_TOLERANCE)
    gradient = slope_of(loss, leaf)
    assert gradient.dtype == dtype
    # On a few large probabilities the 4 ulp of numpy's exp and log, as interpreted, decide alone.
    rival = slope_of(eager, eager_leaf) if shape[1] > 1000 else None
    assert_accurate("gradient", gradient, slope_of(expected, exact), TOLERANCES[dtype], rival)
    assert (gradient[targets == -100] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradient_agree_with_torch_in_fp64(kind: str, backend: str) -> None:
    for shape in SHAPES:
        check_training(shape, torch.float32, backend, kind)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_temperature_and_hard_targets_mix(kind: str, backend: str) -> None:
    for temperature in (1.0, 2.5):
        options = {"temperature": temperature, "soft_weight": 0.9, "hard_weight": 0.3}
        check_training((4, 123), torch.float32, backend, kind, **options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_logits_lose_only_what_the_gradient_rounds(dtype: torch.dtype, backend: str) -> None:
    for kind in KINDS:
        check_training((3, 1003), dtype, backend, kind, hard_weight=0.1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_losses_of_rows_take_any_upstream_gradient_twice(backend: str) -> None:
    student, teacher, _ = case(5, 123)
    factors = draw(5, seed=3)
    for kind in KINDS:
        leaf, exact = student.clone().requires_grad_(), student.double().requires_grad_()
        losses = divergence(leaf, teacher, kind=kind, reduction="none", backend=backend)
        expected = distillation(kind, mixture_of(kind), exact, teacher)
        assert_accurate("losses", losses.detach(), expected.detach(), LOSS_TOLERANCE)
        (slope,) = torch.autograd.grad((expected * factors).sum(), exact)
        first, second = (
            torch.autograd.grad((losses * factors).sum(), leaf, retain_graph=True)[0]
            for _ in range(2)
        )
        assert_accurate("gradient", first, slope, TOLERANCE)
        assert torch.equal(first, second)


@pytest.mark.parametrize("backend", BACKENDS)
def test_directions_are_as_named(backend: str) -> None:
    """Teacher (3/4, 1/4), student (1/2, 1/2): the two KLs differ, so none can be its reverse."""
    teacher, student = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    forward = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    reverse = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    wanted = {
        ("forward_kl", None): forward,
        ("reverse_kl", None): reverse,
        ("jsd", 0.0): forward,
        ("jsd", 1.0): reverse,
        ("combined", 1.0): forward,
        ("combined", 0.0): reverse,
        ("skew_kl", 0.0): forward,
        ("skew_kl", 1.0): 0.0,
        ("skew_reverse_kl", 0.0): reverse,
        ("tvd", None): 0.25,
    }
    for (kind, mixture), value in wanted.items():
        loss = divergence(student, teacher, kind=kind, mixture=mixture, backend=backend)
        assert loss.item() == pytest.approx(value, rel=1e-6, abs=1e-7), (kind, mixture)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_student_like_its_teacher_loses_nothing(kind: str, backend: str) -> None:
    student = draw(3, 300).mul(3).requires_grad_()
    loss = divergence(student, student.detach(), kind=kind, backend=backend)
    assert abs(loss.item()) <= 1e-6
    # tvd has no slope there; any sign of rounding errors may be taken for one.
    assert kind == "tvd" or slope_of(loss, student).abs().max() <= 2e-7


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_columns_that_only_the_teacher_has_are_left_out(kind: str, backend: str) -> None:
    student, teacher, _ = case(3, 50)
    wider = torch.cat((teacher, draw(3, 7)), dim=1)
    expected = divergence(student, teacher, kind=kind, backend=backend)
    assert torch.equal(divergence(student, wider, kind=kind, backend=backend), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in NEEDS_TEACHER_SUPPORT])
def test_columns_that_the_teacher_lacks_have_no_probability(kind: str, backend: str) -> None:
    student, teacher, _ = case(3, 50)
    leaf, exact = student.clone().requires_grad_(), student.double().requires_grad_()
    padded = F.pad(teacher[:, :41], (0, 9), value=-torch.inf)
    expected = distillation(kind, mixture_of(kind), exact, padded).mean()
    loss = divergence(leaf, teacher[:, :41], kind=kind, backend=backend)
    assert_accurate("loss", loss.detach(), expected.detach(), LOSS_TOLERANCE)
    # The truth's own gradient is NaN at log 0, so the padding is brought near.
    nearly = F.pad(teacher[:, :41], (0, 9), value=-200.0)
    slope = slope_of(distillation(kind, mixture_of(kind), exact, nearly).mean(), exact)
    assert_accurate("gradient", slope_of(loss, leaf), slope, TOLERANCE)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_outcomes_that_both_exclude_count_nothing(kind: str, backend: str) -> None:
    student, teacher, _ = case(3, 50)
    expected = divergence(student, teacher, kind=kind, backend=backend)
    wider = [F.pad(x, (0, 9), value=-torch.inf) for x in (student, teacher)]
    leaf = wider[0].requires_grad_()
    loss = divergence(leaf, wider[1], kind=kind, backend=backend)
    assert_accurate("loss", loss.detach(), expected, LOSS_TOLERANCE)
    assert (slope_of(loss, leaf)[:, 50:] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rows", [0, 3])
def test_nothing_that_counts_gives_zero_loss_and_gradient(rows: int, backend: str) -> None:
    leaf = draw(rows, 17).requires_grad_()
    targets = torch.full((rows,), -100)
    loss = divergence(leaf, draw(rows, 17, seed=1), targets, hard_weight=0.5, backend=backend)
    assert loss.item() == 0.0
    assert (slope_of(loss, leaf) == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_operands_are_read_in_place_or_copied(backend: str) -> None:
    student, teacher, _ = case(4, 123)
    expected = divergence(student, teacher, backend=backend)
    every_other = torch.stack((student, teacher), dim=1).flatten(0, 1)
    for one, other in (
        (spread(student), spread(teacher)),
        (every_other[::2], every_other[1::2]),
    ):
        assert torch.equal(divergence(one, other, backend=backend), expected)


@settings(max_examples=20, deadline=None)
@given(kind=st.sampled_from(KINDS), backend=st.sampled_from(BACKENDS), seed=st.integers(0, 1000))
def test_is_never_negative_and_bounded_where_it_must_be(kind: str, backend: str, seed: int) -> None:
    student, teacher = draw(2, 20, seed=seed).mul(5), draw(2, 20, seed=seed + 1).mul(5)
    losses = divergence(student, teacher, kind=kind, reduction="none", backend=backend)
    bounds = {"jsd": math.log(2), "tvd": 1.0, "skew_kl": -math.log(0.1)}
    assert (losses >= -1e-6).all()
    assert (losses <= bounds.get(kind, math.inf) + 1e-6).all()


@pytest.mark.parametrize("kind", KINDS)
def test_reference_passes_gradcheck(kind: str) -> None:
    student, teacher, targets = case(4, 7)
    mix = Mix(kind, mixture_of(kind), 1.5, 0.9, 0.3)

    def loss(x: Tensor) -> Tensor:
        return distillation_reference(x, teacher.double(), targets, mix)

    assert torch.autograd.gradcheck(loss, student.double().requires_grad_())


def test_operators_pass_opcheck_and_compile_whole() -> None:
    student, teacher, targets = case(3, 20)
    mix = tuple(Mix("jsd", 0.5))
    _, statistics = module.losses_operator(student, teacher, targets, *mix)
    torch.library.opcheck(module.losses_operator.twin, (student, teacher, targets, *mix))
    operands = (student, teacher, None, statistics, torch.ones(3), *mix)
    torch.library.opcheck(module.gradient_operator.twin, operands)

    def loss(x: Tensor) -> Tensor:
        return divergence(x, teacher, targets, kind="jsd", backend="triton")

    leaf = student.requires_grad_()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(leaf), loss(leaf))
    assert torch.equal(slope_of(compiled(leaf), leaf), slope_of(loss(leaf), leaf))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"student_logits": torch.ones(4)}, ValueError, r"student_logits has shape \(4,\)"),
        ({"teacher_logits": torch.ones(3, 3)}, ValueError, r"must be \(2, vocabulary\)"),
        ({"teacher_logits": torch.ones(2, 0)}, ValueError, "vocabularies are 3 and 0"),
        ({"teacher_logits": torch.ones(2, 3).int()}, TypeError, "teacher_logits is int32"),
        ({"kind": "kl"}, ValueError, "kind is 'kl'; pass one of forward_kl, reverse_kl"),
        ({"mixture": 0.5}, ValueError, "mixture is 0.5, but forward_kl has none"),
        ({"kind": "jsd", "mixture": 1.5}, ValueError, "mixture is 1.5; pass 0 to 1"),
        ({"temperature": 0.0}, ValueError, "temperature is 0.0; pass more than 0"),
        ({"soft_weight": -1.0}, ValueError, "soft_weight is -1.0; pass 0 or more"),
        ({"hard_weight": 0.5}, ValueError, "hard_weight is 0.5 without targets"),
        ({"targets": torch.ones(3).long()}, ValueError, r"targets has shape \(3,\)"),
        ({"reduction": "batchmean"}, ValueError, "reduction is 'batchmean'"),
        (
            {"teacher_logits": torch.ones(2, 2), "kind": "reverse_kl"},
            ValueError,
            "infinite where the teacher has no column: it has 2, the student 3",
        ),
    ],
)
def test_bad_operands_are_named(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    operands: dict[str, Any] = {
        "student_logits": torch.ones(2, 3),
        "teacher_logits": torch.ones(2, 3),
    }
    with pytest.raises(error, match=message):
        divergence(**operands | changes)
