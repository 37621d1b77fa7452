"""Divergence of a student's logits from a teacher's, trained through. Knows nothing of its kernel.

    loss = soft_weight T^2 D(softmax(teacher / T), softmax(student / T))
           + hard_weight cross_entropy(student, targets),       D as named in `divergence_terms`

The losses read both logits twice, the backward pass reads them again and writes the gradient: 6
values a column moved of each pair, and the gradient is all that is allocated. Sums and losses are
float32. Losses over hidden states and vocabularies are better served by `linear_distillation`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.base.checks import FLOATS, check_dtype, check_same_device, check_shape, rows_contiguous
from kernels.base.dispatch import Operator, choose_backend
from kernels.base.variant import Cost
from kernels.cross_entropy import check_targets
from kernels.losses.divergence_mix import Mix, checked_mix, distillation_reference
from kernels.losses.divergence_rows import STATISTICS, launch_distillation
from kernels.losses.divergence_terms import NEEDS_TEACHER_SUPPORT
from kernels.losses.reduction import check_reduction, reduced


def divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor | None = None,
    *,
    kind: str = "forward_kl",
    mixture: float | None = None,
    temperature: float = 1.0,
    soft_weight: float = 1.0,
    hard_weight: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """Loss float32, a scalar or (N,) for reduction "none"; the teacher gets no gradient.

    student_logits (N, V) and teacher_logits (N, V') of any float dtypes. A teacher's columns beyond
    V are left out and its probabilities are those among the first V; where it has fewer, the
    missing ones are -inf, and reverse_kl and combined, infinite there, are refused. targets (N,)
    int64: rows with `ignore_index` give loss and gradient 0 and do not count in the mean; None
    counts all rows. Raises ValueError or TypeError naming the operand, BackendUnavailableError as
    `choose_backend` does.
    """
    check_shape("student_logits", student_logits, ("rows", "vocabulary"))
    check_shape("teacher_logits", teacher_logits, (student_logits.shape[0], "vocabulary"))
    for name, operand in (("student_logits", student_logits), ("teacher_logits", teacher_logits)):
        check_dtype(name, operand, FLOATS)
    check_same_device(student_logits=student_logits, teacher_logits=teacher_logits)
    mix = checked_mix(kind, mixture, temperature, soft_weight, hard_weight, ignore_index)
    check_vocabularies(mix, student_logits.shape[1], teacher_logits.shape[1])
    check_soft_targets(mix, targets, student_logits)
    check_reduction(reduction)
    teacher = rows_contiguous(teacher_logits.detach()[:, : student_logits.shape[1]])
    if choose_backend(backend, student_logits) == "torch":
        losses = distillation_reference(student_logits, teacher, targets, mix)
    else:
        named = None if targets is None else targets.contiguous()
        losses = _Divergence.apply(rows_contiguous(student_logits), teacher, named, *mix)  # type: ignore[no-untyped-call]
    return reduced(losses, targets, ignore_index, reduction)


def check_vocabularies(mix: Mix, student: int, teacher: int) -> None:
    """Raises ValueError for no columns, or too few of the teacher's for the divergence."""
    if student == 0 or teacher == 0:
        raise ValueError(f"the vocabularies are {student} and {teacher}; each needs a column")
    if teacher < student and mix.kind in NEEDS_TEACHER_SUPPORT:
        raise ValueError(
            f"kind is {mix.kind!r}, infinite where the teacher has no column: it has {teacher}, "
            f"the student {student}; pass another kind or only the student's first {teacher}"
        )


def check_soft_targets(mix: Mix, targets: Tensor | None, rows: Tensor) -> None:
    """Raises ValueError or TypeError unless targets fit `rows` (N, ...) and are there if needed."""
    if targets is not None:
        check_targets(targets, rows)
    elif mix.hard_weight:
        raise ValueError(f"hard_weight is {mix.hard_weight} without targets; pass targets or 0")


def _losses(
    student: Tensor,
    teacher: Tensor,
    targets: Tensor | None,
    kind: str,
    mixture: float,
    temperature: float,
    soft_weight: float,
    hard_weight: float,
    ignore_index: int,
) -> tuple[Tensor, Tensor]:
    """Losses (N,) and statistics (N, 6), float32."""
    losses, statistics = _empty_losses(student)
    mix = Mix(kind, mixture, temperature, soft_weight, hard_weight, ignore_index)
    launch_distillation(losses, statistics, None, student, teacher, targets, None, mix)
    return losses, statistics


def _empty_losses(student: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    losses = student.new_empty(student.shape[:1], dtype=torch.float32)
    return losses, losses.new_empty((student.shape[0], STATISTICS))


def _gradient(
    student: Tensor,
    teacher: Tensor,
    targets: Tensor | None,
    statistics: Tensor,
    upstream: Tensor,
    kind: str,
    mixture: float,
    temperature: float,
    soft_weight: float,
    hard_weight: float,
    ignore_index: int,
) -> Tensor:
    gradient = _empty_gradient(student)
    mix = Mix(kind, mixture, temperature, soft_weight, hard_weight, ignore_index)
    launch_distillation(None, statistics, gradient, student, teacher, targets, upstream, mix)
    return gradient


def _empty_gradient(student: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(student, memory_format=torch.contiguous_format)


losses_operator = Operator("fairslate::divergence_losses", _losses, _empty_losses)
gradient_operator = Operator("fairslate::divergence_gradient", _gradient, _empty_gradient)


class _Divergence(torch.autograd.Function):
    """Losses of rows; the backward pass reads both logits again and takes any upstream gradient."""

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, targets: Tensor | None, *mix: Any
    ) -> Tensor:
        losses, statistics = losses_operator(student, teacher, targets, *mix)
        ctx.save_for_backward(student, teacher, targets, statistics)
        ctx.mix = mix
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradient_operator(*ctx.saved_tensors, upstream.float(), *ctx.mix)
        return (gradient, *[None] * (2 + len(ctx.mix)))


def cost(student_logits: Tensor, teacher_logits: Tensor, *, gradient: bool = True) -> Cost:
    """Both logits read twice for the losses, once more for the gradient, which is written."""
    read = student_logits.nbytes + teacher_logits.nbytes
    moved = 3 * read + student_logits.nbytes if gradient else 2 * read
    return Cost(moved, student_logits.numel() * (22 if gradient else 14))
