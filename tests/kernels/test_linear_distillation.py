"""linear_distillation against all logits at once in fp64. Knows nothing of models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.linear_distillation import linear_distillation, linear_operator
from kernels.losses.divergence_mix import Mix, distillation_reference
from kernels.losses.divergence_terms import MIXTURES
from tests.kernels.allocations import LargestTensor
from tests.kernels.divergence_truth import distillation
from tests.kernels.truth import BACKENDS, assert_accurate, draw, spread

# Interpreted lanes that no result takes in compute with infinities.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
KINDS = list(MIXTURES)
TOKENS, VOCABULARY, TEACHER_VOCABULARY, STUDENT, TEACHER = 7, 123, 130, 24, 40
OPTIONS: dict[str, Any] = {"temperature": 2.0, "soft_weight": 0.9, "hard_weight": 0.2}
UPSTREAM = 1.7
# RMS of the error over RMS of the truth; the worst measured are 5.0e-7 and, in bf16, 4.4e-3.
TOLERANCES = {torch.float32: 9e-7, torch.bfloat16: 5e-3}

Case = tuple[list[Tensor], list[Tensor], Tensor]


def case(dtype: torch.dtype = torch.float32, teacher_vocabulary: int = TEACHER_VOCABULARY) -> Case:
    """Student's and teacher's (hidden, weight, bias) and targets, a third of which are ignored."""
    student = [draw(TOKENS, STUDENT), draw(VOCABULARY, STUDENT) * 0.2]
    student.append(draw(VOCABULARY))
    teacher = [draw(TOKENS, TEACHER), draw(teacher_vocabulary, TEACHER) * 0.15]
    teacher.append(draw(teacher_vocabulary, seed=1))
    targets = torch.arange(TOKENS) * 17 % VOCABULARY
    targets[1::3] = -100
    return [x.to(dtype).requires_grad_() for x in student], [x.to(dtype) for x in teacher], targets


def run(
    student: list[Tensor],
    teacher: list[Tensor],
    targets: Tensor | None,
    function: Any = linear_distillation,
    **options: Any,
) -> Any:
    biases = {"student_bias": student[2], "teacher_bias": teacher[2]}
    return function(*student[:2], *teacher[:2], targets, **biases, **options)


def gradients(loss: Tensor, operands: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad((loss * UPSTREAM).sum(), operands, retain_graph=True)


def truth(
    student: list[Tensor], teacher: list[Tensor], targets: Tensor | None, kind: str, **options: Any
) -> tuple[Tensor, list[Tensor]]:
    """Losses (N,) through all the logits in fp64, and the operands they are differentiable in."""
    exact = [x.detach().double().requires_grad_() for x in student]
    width = exact[1].shape[0]
    logits = F.linear(*(x.double() for x in teacher))[:, :width]
    mixture = MIXTURES[kind] or 0.0
    return distillation(kind, mixture, F.linear(*exact), logits, targets, **options), exact


def reduced(losses: Tensor, targets: Tensor | None, reduction: str) -> Tensor:
    if reduction == "none":
        return losses
    count = len(losses) if targets is None else int((targets != -100).sum())
    return losses.sum() / (count if reduction == "mean" else 1)


def check(kind: str, reduction: str, backend: str, function: Any = linear_distillation) -> None:
    student, teacher, targets = case()
    losses, exact = truth(student, teacher, targets, kind, **OPTIONS)
    expected = reduced(losses, targets, reduction)
    options: dict[str, Any] = {"kind": kind, "reduction": reduction, "backend": backend, **OPTIONS}
    loss = run(student, teacher, targets, function, **options, chunk_tokens=3)
    assert loss.dtype == torch.float32
    limit = TOLERANCES[torch.float32]
    assert_accurate("loss", loss.detach(), expected.detach(), limit)
    actual, again = gradients(loss, student), gradients(loss, student)
    for name, one, other, wanted in zip(
        ("hidden", "weight", "bias"), actual, again, gradients(expected, exact), strict=True
    ):
        assert torch.equal(one, other)
        assert_accurate(name, one, wanted, limit)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_all_logits_in_fp64(kind: str, reduction: str, backend: str) -> None:
    check(kind, reduction, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_no_worse_than_eager(kind: str, backend: str) -> None:
    student, teacher, targets = case(torch.bfloat16)
    losses, exact = truth(student, teacher, targets, kind, **OPTIONS)
    loss = run(student, teacher, targets, kind=kind, **OPTIONS, chunk_tokens=3, backend=backend)
    mix = Mix(kind, MIXTURES[kind] or 0.0, **OPTIONS)
    with torch.no_grad():
        teacher_logits = F.linear(*teacher)[:, : len(student[1])]
    plain_losses = distillation_reference(F.linear(*student), teacher_logits, targets, mix)
    eager = reduced(plain_losses, targets, "mean")
    expected = reduced(losses, targets, "mean")
    assert_accurate("loss", loss.detach(), expected.detach(), 5e-3, eager.detach())
    names = ("hidden", "weight", "bias")
    found, plain = gradients(loss, student), gradients(eager, student)
    for name, one, wanted, rival in zip(
        names, found, gradients(expected, exact), plain, strict=True
    ):
        assert one.dtype == torch.bfloat16
        assert_accurate(name, one, wanted, TOLERANCES[torch.bfloat16], rival)


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_targets_every_token_counts(backend: str) -> None:
    student, teacher, _ = case()
    losses, exact = truth(student, teacher, None, "jsd")
    expected = losses.mean()
    loss = run(student, teacher, None, kind="jsd", chunk_tokens=2, backend=backend)
    assert_accurate("loss", loss.detach(), expected.detach(), TOLERANCES[torch.float32])
    for one, wanted in zip(gradients(loss, student), gradients(expected, exact), strict=True):
        assert_accurate("gradient", one, wanted, TOLERANCES[torch.float32])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["forward_kl", "jsd", "tvd", "skew_kl", "skew_reverse_kl"])
def test_a_narrower_teacher_gives_its_missing_columns_nothing(kind: str, backend: str) -> None:
    student, teacher, targets = case(teacher_vocabulary=100)
    exact = [x.detach().double().requires_grad_() for x in student]
    logits = F.linear(*(x.double() for x in teacher))
    padded = F.pad(logits, (0, VOCABULARY - 100), value=-200.0)
    mixture = MIXTURES[kind] or 0.0
    expected = distillation(kind, mixture, F.linear(*exact), padded, targets).sum() / 5
    loss = run(student, teacher, targets, kind=kind, chunk_tokens=3, backend=backend)
    assert_accurate("loss", loss.detach(), expected.detach(), TOLERANCES[torch.float32])
    for one, wanted in zip(gradients(loss, student), gradients(expected, exact), strict=True):
        assert_accurate("gradient", one, wanted, TOLERANCES[torch.float32])


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind: str, reduction: str) -> None:
    student = [draw(4, 3), draw(6, 3), draw(6)]
    teacher = [x.double() for x in (draw(4, 2, seed=2), draw(6, 2, seed=2), draw(6, seed=2))]
    targets = torch.tensor([1, -100, 5, 0])

    def loss(*operands: Tensor) -> Any:
        options = {"kind": kind, "reduction": reduction, "chunk_tokens": 3, **OPTIONS}
        return run(list(operands), teacher, targets, **options)

    assert torch.autograd.gradcheck(loss, [x.double().requires_grad_() for x in student])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_logits_of_all_tokens_never_exist(reduction: str, backend: str) -> None:
    hidden, weight = draw(64, 4).requires_grad_(), draw(512, 4).requires_grad_()
    with LargestTensor() as largest:
        loss = linear_distillation(
            hidden,
            weight,
            draw(64, 8),
            draw(512, 8),
            reduction=reduction,
            chunk_tokens=8,
            backend=backend,
        )
        gradients(loss, [hidden, weight])
    assert largest.bytes == 8 * 512 * 4


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_tokens_give_zero_gradients(backend: str) -> None:
    student, teacher, targets = case()
    student[0] = student[0].detach()[:0].requires_grad_()
    loss = run(student, [teacher[0][:0], *teacher[1:]], targets[:0], backend=backend)
    assert loss.item() == 0.0
    assert all((gradient == 0).all() for gradient in gradients(loss, student))


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_the_student_is_trained(backend: str) -> None:
    student, teacher, targets = case()
    learning = [x.requires_grad_() for x in teacher]
    loss = run(student, learning, targets, backend=backend)
    found = torch.autograd.grad(loss, [*student, *learning], allow_unused=True)
    assert all(gradient is not None for gradient in found[:3])
    assert all(gradient is None for gradient in found[3:])


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_operands_are_read_in_place_or_copied(backend: str) -> None:
    student, teacher, targets = case()
    expected = run(student, teacher, targets, backend=backend).detach()
    apart = [[spread(x[0]), spread(x[1]), x[2]] for x in (student, teacher)]
    actual = run(apart[0], apart[1], spread(targets), backend=backend)
    assert_accurate("loss", actual.detach(), expected, 2e-7)


@settings(max_examples=12, deadline=None)
@given(chunk=st.integers(1, 9), kind=st.sampled_from(KINDS), backend=st.sampled_from(BACKENDS))
def test_the_chunk_changes_the_sums_order_alone(chunk: int, kind: str, backend: str) -> None:
    student, teacher, targets = case()
    whole, parts = (
        run(student, teacher, targets, kind=kind, chunk_tokens=size, backend=backend)
        for size in (None, chunk)
    )
    for one, other in zip(gradients(parts, student), gradients(whole, student), strict=True):
        assert_accurate("gradient", one, other, TOLERANCES[torch.float32])


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiles_whole(reduction: str) -> None:
    student, teacher, targets = case()

    def loss(*operands: Tensor) -> Any:
        return run(list(operands), teacher, targets, reduction=reduction, chunk_tokens=2)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(*student)
    pairs = zip(gradients(compiled, student), gradients(loss(*student), student), strict=True)
    assert all(torch.allclose(one, other, rtol=1e-6, atol=1e-7) for one, other in pairs)


def test_operator_passes_opcheck() -> None:
    student, teacher, targets = case()
    operands = [x.detach() for x in student]
    teacher[1], teacher[2] = teacher[1][:VOCABULARY], teacher[2][:VOCABULARY]
    rest = (torch.ones(TOKENS), [True, True, False], *teacher, targets, *Mix(), 2, "torch")
    torch.library.opcheck(linear_operator.twin, (*operands, *rest))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"student_weight": torch.ones(9, 5)}, ValueError, r"student_weight has shape \(9, 5\)"),
        ({"teacher_weight": torch.ones(9, 5)}, ValueError, r"teacher_weight has shape \(9, 5\)"),
        ({"teacher_hidden": torch.ones(2, 6)}, ValueError, r"teacher_hidden has shape \(2, 6\)"),
        ({"teacher_bias": torch.ones(8)}, ValueError, r"teacher_bias has shape \(8,\)"),
        ({"student_weight": torch.ones(9, 4).half()}, TypeError, "student_weight is torch.float16"),
        ({"targets": torch.ones(3)}, TypeError, "targets is float32; pass int64"),
        ({"hard_weight": 0.5}, ValueError, "hard_weight is 0.5 without targets"),
        ({"kind": "mse"}, ValueError, "kind is 'mse'; pass one of"),
        ({"chunk_tokens": 0}, ValueError, "chunk_tokens is 0"),
        (
            {"teacher_weight": torch.ones(8, 6), "kind": "combined"},
            ValueError,
            "infinite where the teacher has no column: it has 8, the student 9",
        ),
    ],
)
def test_bad_operands_are_named(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    operands: dict[str, Any] = {
        "student_hidden": torch.ones(3, 4),
        "student_weight": torch.ones(9, 4),
        "teacher_hidden": torch.ones(3, 6),
        "teacher_weight": torch.ones(9, 6),
    }
    with pytest.raises(error, match=message):
        linear_distillation(**operands | changes)
