"""Planted bugs of the divergences, their memory, and what only a GPU can show."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.divergence import divergence
from kernels.losses import divergence_rows as rows_module
from kernels.losses import divergence_terms as terms_module
from kernels.losses.divergence_mix import Mix
from tests.kernels.divergence_truth import between, distillation
from tests.kernels.planted import each_caught, load_broken_copy
from tests.kernels.test_divergence import (
    KINDS,
    LOSS_TOLERANCE,
    TOLERANCE,
    case,
    mixture_of,
    slope_of,
)
from tests.kernels.truth import (
    assert_accurate,
    assert_guard_untouched,
    draw,
    guarded,
    max_error,
    surrounded,
)


def check_rows(found: ModuleType) -> None:
    """The kernel beside guarded memory, every kind, with weights of its own for each row."""
    student, teacher, targets = case(3, 2100)
    weights = torch.tensor([0.5, 1.5, 2.5])
    for kind in KINDS:
        mix = Mix(kind, mixture_of(kind), 2.0, 0.9, 0.3)
        exact = student.double().requires_grad_()
        options = (mix.temperature, mix.soft_weight, mix.hard_weight)
        expected = distillation(kind, mix.mixture, exact, teacher, targets, *options)
        (slope,) = torch.autograd.grad((expected * weights).sum(), exact)
        buffer, place = guarded(3, 2100)
        place.copy_(student)
        wall = surrounded(teacher.repeat_interleave(2, dim=0))[::2]
        losses = found.distillation_rows(place, wall, targets, weights, mix, backend="triton")
        assert_accurate("losses", losses, expected.detach(), LOSS_TOLERANCE)
        assert_accurate("gradient", place.clone(), slope, TOLERANCE)
        assert_guard_untouched(buffer, place)


# Each is a plausible slip; the checks above must catch every one of them.
PLANTED_BUGS = {
    "temperature not squared": ("soft_weight * temperature * temperature", "soft_weight"),
    "gradient without its temperature": ("weight * soft_weight * temperature", "weight"),
    "hard part tempered": ("(x - student_top) * temperature", "(x - student_top)"),
    "hard target forgotten": ("tl.where(columns == target, 1.0, 0.0)", "0.0"),
    "every mean slope -1": ("mean_slope = tl.sum(slopes, axis=0)", "mean_slope = -1.0"),
    "ignored rows read": ("tl.where(target == ignore_index, 0, student_size)", "student_size"),
    "student's stride for both": ("row * teacher_row_stride", "row * student_row_stride"),
    "teacher's row read too far": ("columns < teacher_size", "columns <= teacher_size"),
    "gradient written too far": ("gradient, columns < student_read", "gradient, columns < 2200"),
    "ignored rows keep their logits": ("range(student_read, ", "range(student_size, "),
}

test_planted_bugs_are_caught = each_caught(rows_module, PLANTED_BUGS, check_rows)


TERM_BUGS = {
    "forward slope reversed": ("        slope = -p\n", "        slope = p\n"),
    "combined without the forward slope": ("backward - mixture * p", "backward"),
    "jsd without the teacher's share": ("* _relative_entropy(p, log_p, log_m)", "* 0.0"),
    "tvd one-sided": ("tl.where(q < p, -0.5 * q, 0.0)", "0.0"),
    "skew turned round": ("log_p - tl.log(mixture * p", "log_p - tl.log((1.0 - mixture) * p"),
    "skew_reverse without its own share": ("(gap - mixture * tl.exp(gap))", "gap"),
}


@pytest.mark.parametrize("bug", TERM_BUGS)
def test_planted_bugs_of_terms_are_caught(
    bug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = load_broken_copy(terms_module, tmp_path, *TERM_BUGS[bug])
    monkeypatch.setattr(rows_module, "divergence_terms", broken.divergence_terms)
    with pytest.raises(AssertionError):
        check_rows(rows_module)


@pytest.mark.parametrize("kind", KINDS)
def test_terms_sum_to_the_divergence(kind: str) -> None:
    log_p, log_q = (draw(2, 9, seed=seed).double().log_softmax(-1) for seed in (0, 1))
    reference = terms_module.divergence_terms_reference
    terms, _ = reference(kind, mixture_of(kind), log_p, log_q)
    expected = between(kind, mixture_of(kind), log_p, log_q)
    assert max_error(terms.sum(-1), expected) <= 1e-14


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_the_reference_at_the_size_of_a_model(kind: str) -> None:
    student, teacher, targets = (x.cuda() for x in case(64, 151_936))
    options: dict[str, Any] = {"temperature": 2.0, "soft_weight": 0.9, "hard_weight": 0.1}
    leaf, exact = student.clone().requires_grad_(), student.double().requires_grad_()
    count = (targets != -100).sum()
    expected = (
        distillation(kind, mixture_of(kind), exact, teacher, targets, **options).sum() / count
    )
    loss = divergence(leaf, teacher, targets, kind=kind, **options)
    assert_accurate("loss", loss.detach(), expected.detach(), 2 * LOSS_TOLERANCE)
    gradient, wanted = slope_of(loss, leaf), slope_of(expected, exact)
    if kind == "tvd":
        gradient = gradient.where(decided(student, teacher, 2.0), wanted.float())
    assert_accurate("gradient", gradient, wanted, 2 * TOLERANCE)


def decided(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Where float32 tells which of two probabilities is larger: tvd's slope is the sign of that.

    Logarithms of some 20 are rounded three times, by 1e-6 each; the sign turns at next to none.
    """
    log_q, log_p = ((x.double() / temperature).log_softmax(-1) for x in (student, teacher))
    found = (log_p - log_q).abs() > 1e-5
    assert found.double().mean() > 0.9999
    return found


@pytest.mark.gpu
def test_offsets_pass_two_to_the_31() -> None:
    vocabulary = 151_936
    rows = 2**31 // vocabulary + 3
    student = torch.zeros(rows, vocabulary, dtype=torch.bfloat16, device="cuda")
    student[-1, 7] = 8.0
    teacher = torch.zeros_like(student)
    losses = divergence(student, teacher, reduction="none")
    expected = distillation("forward_kl", 0.0, student[-2:].cpu(), teacher[-2:].cpu())
    assert max_error(losses[-2:].cpu(), expected) <= 1e-5
