"""Ranking losses of ragged groups, trained through. Knows nothing of slates or models.

The formulas are those of `ranking_terms`; group g is scores[offsets[g] : offsets[g + 1]]. One
program takes one group, of at most 1024 items, in registers, and compares a few items with all of
them at a time. Gradients that somebody wants come with the losses, each from a sum along one axis,
so nothing is added atomically. 8 bytes an item are read and 4 written; all float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.base.checks import (
    FLOATS,
    check_dtype,
    check_same_device,
    check_shape,
    wants_gradient,
)
from kernels.base.dispatch import choose_backend
from kernels.base.variant import Cost
from kernels.losses.ranking_kernel import MAX_LENGTH, ranking_operator, scaling_operator
from kernels.losses.ranking_terms import KINDS, ranking_loss_reference
from kernels.losses.reduction import check_reduction


class _RankingLoss(torch.autograd.Function):
    """Losses of groups; the backward pass scales each group's gradient by its upstream factor."""

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, targets: Tensor, offsets: Tensor, *settings: Any
    ) -> Tensor:
        losses, gradient = ranking_operator(scores, targets, offsets, *settings, True)
        ctx.save_for_backward(gradient, offsets)
        ctx.dtype, ctx.others = scores.dtype, 2 + len(settings)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradient, offsets = ctx.saved_tensors
        return (scaling_operator(gradient, upstream, offsets, ctx.dtype), *[None] * ctx.others)


def ranking_loss(
    scores: Tensor,
    targets: Tensor,
    offsets: Tensor,
    *,
    max_length: int,
    kind: str = "listnet",
    temperature: float = 1.0,
    mu: float = 10.0,
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """Loss float32: the mean or sum over the G groups, or (G,) for reduction "none".

    scores and targets (T,) floats; offsets (G + 1,) int32 or int64, non-decreasing, from 0 to T;
    max_length: the longest group's length or a bound on it, up to 1024; the caller knows it,
    finding it on the device would wait for it. For lambdaloss targets are grades of 0 or more;
    margin_mse has no temperature. The targets get no gradient. Raises ValueError or TypeError
    naming the operand, BackendUnavailableError as `choose_backend` does.
    """
    check_shape("scores", scores, ("items",))
    check_shape("targets", targets, (scores.shape[0],))
    check_shape("offsets", offsets, ("groups + 1",))
    check_dtype("scores", scores, FLOATS)
    check_dtype("targets", targets, FLOATS)
    check_dtype("offsets", offsets, (torch.int32, torch.int64))
    check_same_device(scores=scores, targets=targets, offsets=offsets)
    _check_settings(offsets, max_length, kind, temperature, mu)
    check_reduction(reduction)
    if choose_backend(backend, scores) == "torch":
        losses = ranking_loss_reference(scores, targets, offsets, kind, temperature, mu)
    else:
        operands = (scores.contiguous(), targets.detach().contiguous(), offsets.contiguous())
        settings = (kind, temperature, mu, max_length)
        if wants_gradient(scores):
            losses = _RankingLoss.apply(*operands, *settings)  # type: ignore[no-untyped-call]
        else:
            losses, _ = ranking_operator(*operands, *settings, False)
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" and losses.shape[0] else losses.sum()


def _check_settings(
    offsets: Tensor, max_length: int, kind: str, temperature: float, mu: float
) -> None:
    if offsets.shape[0] == 0:
        raise ValueError("offsets is empty; it must hold one bound more than there are groups")
    if not 1 <= max_length <= MAX_LENGTH:
        raise ValueError(f"max_length is {max_length}; pass 1 to {MAX_LENGTH}")
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; pass one of {', '.join(KINDS)}")
    if not temperature > 0.0 or (kind == "margin_mse" and temperature != 1.0):
        raise ValueError(
            f"temperature is {temperature} for {kind}; pass more than 0, 1 for margin_mse"
        )
    if mu < 0.0:
        raise ValueError(f"mu is {mu}; pass 0 or more")


def cost(scores: Tensor, offsets: Tensor) -> Cost:
    """Scores and targets read, gradients and losses written; comparisons count as no operation."""
    return Cost(12 * scores.shape[0] + 12 * offsets.shape[0], 0)
