"""Distillation between two linear layers whose outputs never exist at once. Knows no models.

    loss = distillation(student_hidden student_weight^T, teacher_hidden teacher_weight^T, targets),
    the loss of `divergence`

Both layers run over the same chunk of tokens, each into a buffer of its own; one kernel reads both
and leaves the gradient in the student's, from which the gradients of the student's operands are
taken, in the forward pass. The hidden sizes may differ. 6 N V h operations for the student and
2 N V h' for the teacher; d weight is summed in float32 and takes 4 V h bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.base.checks import FLOATS, check_same_device, check_shape, rows_contiguous
from kernels.base.dispatch import Operator, choose_backend
from kernels.base.variant import Cost
from kernels.divergence import check_soft_targets, check_vocabularies
from kernels.losses.chunked_loss import chunked_loss
from kernels.losses.divergence_mix import Mix, checked_mix
from kernels.losses.divergence_rows import distillation_rows
from kernels.losses.reduction import check_reduction, row_weight
from kernels.losses.token_chunks import (
    Head,
    Results,
    check_chunk_tokens,
    chunk_size,
    empty_results,
    logits_buffer,
    run_in_chunks,
)


def linear_distillation(
    student_hidden: Tensor,
    student_weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    targets: Tensor | None = None,
    *,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    kind: str = "forward_kl",
    mixture: float | None = None,
    temperature: float = 1.0,
    soft_weight: float = 1.0,
    hard_weight: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    chunk_tokens: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Loss float32, a scalar or (N,) for reduction "none"; the teacher gets no gradient.

    student_hidden (N, h), student_weight (V, h), student_bias (V,) of one float dtype (float64 in
    plain torch as well); the teacher's (N, h'), (V', h'), (V',) of another or the same; targets
    (N,) int64 or None. Vocabularies, targets, settings and errors as in `divergence`;
    `chunk_tokens` as in `linear_cross_entropy`.
    """
    chosen = choose_backend(backend, student_hidden)
    dtypes = (*FLOATS, torch.float64) if chosen == "torch" else FLOATS
    student = Head(rows_contiguous(student_hidden), rows_contiguous(student_weight), student_bias)
    teacher = Head(rows_contiguous(teacher_hidden), rows_contiguous(teacher_weight), teacher_bias)
    student.check("student_", dtypes)
    teacher.check("teacher_", dtypes)
    check_shape("teacher_hidden", teacher_hidden, (student_hidden.shape[0], "hidden"))
    check_same_device(student_hidden=student_hidden, teacher_hidden=teacher_hidden)
    mix = checked_mix(kind, mixture, temperature, soft_weight, hard_weight, ignore_index)
    check_vocabularies(mix, student_weight.shape[0], teacher_weight.shape[0])
    check_soft_targets(mix, targets, student_hidden)
    check_reduction(reduction)
    check_chunk_tokens(chunk_tokens)
    counted = None
    if reduction != "none":
        counted = row_weight(targets, student_hidden, ignore_index, reduction)
    named = None if targets is None else targets.contiguous()
    rest = (*teacher.first_columns(student_weight.shape[0]), named, *mix, chunk_tokens, chosen)
    return chunked_loss(linear_operator, student, counted, rest)


def _run(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    row_weights: Tensor,
    wanted: list[bool],
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    teacher_bias: Tensor | None,
    targets: Tensor | None,
    kind: str,
    mixture: float,
    temperature: float,
    soft_weight: float,
    hard_weight: float,
    ignore_index: int,
    chunk_tokens: int | None,
    backend: str,
) -> Results:
    teacher = Head(teacher_hidden, teacher_weight, teacher_bias)
    mix = Mix(kind, mixture, temperature, soft_weight, hard_weight, ignore_index)
    size = chunk_tokens or chunk_size(hidden, weight.shape[0])
    buffer = logits_buffer(min(size, hidden.shape[0]), teacher_weight.shape[0], teacher_hidden)

    def loss(logits: Tensor, span: slice, weights: Tensor | None) -> Tensor:
        teacher_logits = teacher.logits(span, buffer)
        named = None if targets is None else targets[span]
        return distillation_rows(logits, teacher_logits, named, weights, mix, backend)

    return run_in_chunks(Head(hidden, weight, bias), row_weights, wanted, size, loss)


linear_operator = Operator("fairslate::linear_distillation", _run, empty_results)


def cost(student: Head, teacher: Head) -> Cost:
    """Four products; operands read and the student's gradients written once, no logits at all."""
    tokens, vocabulary = student.hidden.shape[0], student.weight.shape[0]
    read = teacher.hidden.nbytes + teacher.weight.nbytes
    moved = 2 * (student.hidden.nbytes + student.weight.nbytes) + read
    widths = 6 * student.hidden.shape[1] + 2 * teacher.hidden.shape[1]
    return Cost(moved, tokens * vocabulary * widths)
