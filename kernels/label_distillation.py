"""Distillation on a few label tokens of a vocabulary. Knows nothing of what a label means.

    student_j = hidden . weight[label_ids[j]] (+ bias[label_ids[j]]),     j = 1 .. K
    loss      = mean over the temperatures of the loss of `divergence` on those K columns

A ranker is read at its labels alone, so nothing else of the vocabulary is computed: 6 N K h
operations, exact. For two labels and forward_kl the loss is the binary cross-entropy with the
teacher's probability, less the teacher's entropy. Labels' rows and logits are float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.base.checks import FLOATS, check_dtype, check_same_device, check_shape
from kernels.base.variant import Cost
from kernels.divergence import divergence
from kernels.losses.token_chunks import Head
from kernels.sparse_distillation import check_temperatures

MAX_LABELS = 128


def label_logits(student: Head, label_ids: Tensor) -> Tensor:
    """(N, K) float32, differentiable in the student's operands."""
    rows = student.weight.index_select(0, label_ids).float()
    bias = None if student.bias is None else student.bias.index_select(0, label_ids).float()
    return torch.nn.functional.linear(student.hidden.float(), rows, bias)


def label_distillation(
    student_hidden: Tensor,
    student_weight: Tensor,
    label_ids: Tensor,
    teacher_scores: Tensor,
    targets: Tensor | None = None,
    *,
    student_bias: Tensor | None = None,
    kind: str = "forward_kl",
    mixture: float | None = None,
    temperatures: Sequence[float] = (1.0,),
    soft_weight: float = 1.0,
    hard_weight: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """Loss float32, a scalar or (N,) for reduction "none".

    student_hidden (N, h), student_weight (V, h), student_bias (V,) of one float dtype; label_ids
    (K,) int32 or int64, K <= 128, distinct rows of V; teacher_scores (N, K) floats: logits or
    log-probabilities of the labels. targets (N,) int64 say which label, 0 to K - 1, is right. The
    divergences of up to 4 temperatures are averaged, each times its square. Settings and errors as
    in `divergence`.
    """
    student = Head(student_hidden, student_weight, student_bias)
    student.check("student_")
    check_shape("label_ids", label_ids, ("labels",))
    check_dtype("label_ids", label_ids, (torch.int32, torch.int64))
    check_dtype("teacher_scores", teacher_scores, FLOATS)
    check_same_device(
        student_hidden=student_hidden, label_ids=label_ids, teacher_scores=teacher_scores
    )
    if not 1 <= label_ids.shape[0] <= MAX_LABELS:
        raise ValueError(f"label_ids has {label_ids.shape[0]} labels; pass 1 to {MAX_LABELS}")
    check_shape("teacher_scores", teacher_scores, (student_hidden.shape[0], label_ids.shape[0]))
    check_temperatures(temperatures)
    logits = label_logits(student, label_ids)
    losses = [
        divergence(
            logits,
            teacher_scores,
            targets,
            kind=kind,
            mixture=mixture,
            temperature=temperature,
            soft_weight=soft_weight / len(temperatures),
            hard_weight=hard_weight / len(temperatures),
            ignore_index=ignore_index,
            reduction=reduction,
            backend=backend,
        )
        for temperature in temperatures
    ]
    return torch.stack(losses).sum(dim=0)


def cost(student_hidden: Tensor, label_ids: Tensor) -> Cost:
    """Hidden rows and the labels' rows read, their gradients written; three products."""
    tokens, width = student_hidden.shape
    labels = label_ids.shape[0]
    moved = 2 * (student_hidden.nbytes + labels * width * student_hidden.element_size())
    return Cost(moved, 6 * tokens * labels * width)
