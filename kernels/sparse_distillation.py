"""Distillation of a linear layer from a teacher's few kept outcomes. Knows no models, no files.

    loss = the loss of `sparse_mix` of student_hidden student_weight^T, against kept scores

The teacher need not be there: k of its log-probabilities or logits a token, with their columns, are
what remains of it. The student's logits exist for a chunk of tokens at a time. 6 N V h operations;
d weight is summed in float32 and takes 4 V h bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.base.checks import FLOATS, check_dtype, check_same_device, check_shape, rows_contiguous
from kernels.base.dispatch import Operator, choose_backend
from kernels.base.variant import Cost
from kernels.divergence import check_soft_targets
from kernels.losses.chunked_loss import chunked_loss
from kernels.losses.divergence_mix import checked_mix
from kernels.losses.reduction import check_reduction, row_weight
from kernels.losses.sparse_mix import Kept, Mix
from kernels.losses.sparse_rows import MAX_KEPT, MAX_TEMPERATURES, sparse_rows
from kernels.losses.token_chunks import (
    Head,
    Results,
    check_chunk_tokens,
    empty_results,
    run_in_chunks,
    wide_dtype,
)


def sparse_distillation(
    student_hidden: Tensor,
    student_weight: Tensor,
    teacher_outcomes: Tensor,
    teacher_scores: Tensor,
    teacher_rest: Tensor | None = None,
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
    chunk_tokens: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Loss float32, a scalar or (N,) for reduction "none".

    student_hidden (N, h), student_weight (V, h), student_bias (V,) of one float dtype (float64 in
    plain torch as well). teacher_outcomes (N, k) int32 or int64, k <= 256: the columns of V that
    the teacher kept, each once a row; others, such as -1, mark places that hold none.
    teacher_scores (N, k) floats: its log-probabilities there, or its logits. teacher_rest (N,): the
    log-sum-exp of what it did not keep, in the same measure; None stands for the mass that is
    missing from log-probabilities. The divergences of up to 4 temperatures are averaged, each times
    its square. targets (N,) int64, settings and errors as in `divergence`.
    """
    chosen = choose_backend(backend, student_hidden)
    head = Head(rows_contiguous(student_hidden), rows_contiguous(student_weight), student_bias)
    head.check("student_", (*FLOATS, torch.float64) if chosen == "torch" else FLOATS)
    _check_teacher(student_hidden, teacher_outcomes, teacher_scores, teacher_rest)
    check_temperatures(temperatures)
    mix = checked_mix(kind, mixture, 1.0, soft_weight, hard_weight, ignore_index)
    check_soft_targets(mix, targets, student_hidden)
    check_reduction(reduction)
    check_chunk_tokens(chunk_tokens)
    counted = None
    if reduction != "none":
        counted = row_weight(targets, student_hidden, ignore_index, reduction)
    scores = with_rest(teacher_outcomes, teacher_scores, teacher_rest, student_weight.shape[0])
    kept = (scores.to(wide_dtype(student_hidden)), teacher_outcomes.contiguous())
    named = None if targets is None else targets.contiguous()
    settings = Mix(mix.kind, mix.mixture, soft_weight, hard_weight, ignore_index)
    rest = (*kept, named, [float(t) for t in temperatures], *settings, chunk_tokens, chosen)
    return chunked_loss(linear_operator, head, counted, rest)


def check_temperatures(temperatures: Sequence[float]) -> None:
    """Raises ValueError unless there are 1 to 4, all positive."""
    if not 1 <= len(temperatures) <= MAX_TEMPERATURES:
        raise ValueError(f"temperatures are {len(temperatures)}; pass 1 to {MAX_TEMPERATURES}")
    if not all(temperature > 0.0 for temperature in temperatures):
        raise ValueError(f"temperatures are {tuple(temperatures)}; all must be more than 0")


def _check_teacher(hidden: Tensor, outcomes: Tensor, scores: Tensor, rest: Tensor | None) -> None:
    check_shape("teacher_outcomes", outcomes, (hidden.shape[0], "kept"))
    check_shape("teacher_scores", scores, tuple(outcomes.shape))
    check_dtype("teacher_outcomes", outcomes, (torch.int32, torch.int64))
    check_dtype("teacher_scores", scores, (*FLOATS, torch.float64))
    operands = {"student_hidden": hidden, "teacher_outcomes": outcomes, "teacher_scores": scores}
    if rest is not None:
        check_shape("teacher_rest", rest, (hidden.shape[0],))
        check_dtype("teacher_rest", rest, (*FLOATS, torch.float64))
        operands["teacher_rest"] = rest
    check_same_device(**operands)
    if not 1 <= outcomes.shape[1] <= MAX_KEPT:
        raise ValueError(f"teacher_outcomes keeps {outcomes.shape[1]}; pass 1 to {MAX_KEPT}")


def with_rest(outcomes: Tensor, scores: Tensor, rest: Tensor | None, vocabulary: int) -> Tensor:
    """(N, k + 1): the scores and, last, the rest's; None is what their mass lacks of 1."""
    wide = scores.detach().to(wide_dtype(scores))
    if rest is None:
        held = ((outcomes >= 0) & (outcomes < vocabulary)).to(wide.dtype)
        rest = torch.log1p(-(wide.exp() * held).sum(dim=-1).clamp_max(1.0))
    return torch.cat((wide, rest.detach().to(wide.dtype)[:, None]), dim=-1)


def _run(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    row_weights: Tensor,
    wanted: list[bool],
    scores: Tensor,
    outcomes: Tensor,
    targets: Tensor | None,
    temperatures: list[float],
    kind: str,
    mixture: float,
    soft_weight: float,
    hard_weight: float,
    ignore_index: int,
    chunk_tokens: int | None,
    backend: str,
) -> Results:
    mix = Mix(kind, mixture, soft_weight, hard_weight, ignore_index)

    def loss(logits: Tensor, span: slice, weights: Tensor | None) -> Tensor:
        kept = Kept(scores[span], outcomes[span])
        named = None if targets is None else targets[span]
        return sparse_rows(logits, kept, temperatures, named, weights, mix, backend)

    return run_in_chunks(Head(hidden, weight, bias), row_weights, wanted, chunk_tokens, loss)


linear_operator = Operator("fairslate::sparse_distillation", _run, empty_results)


def cost(student: Head, kept: Kept) -> Cost:
    """Three products; operands and kept outcomes read, gradients written once, no logits at all."""
    tokens, vocabulary = student.hidden.shape[0], student.weight.shape[0]
    moved = 2 * (student.hidden.nbytes + student.weight.nbytes)
    moved += kept.scores.nbytes + kept.outcomes.nbytes
    return Cost(moved, 6 * tokens * vocabulary * student.hidden.shape[1])
