"""Losses of a student's row of logits on the few outcomes a teacher kept. Knows no kernel.

The teacher kept k outcomes of a row and the mass of all the rest, so both are compared on k + 1
outcomes, at every temperature T_i of several. With u_j = student_j for a kept j and, for the rest,
r = log sum over the others of exp(student_j):

    D_i  = divergence_terms of p = softmax([teacher_j, rest] / T_i), q = softmax([u_j, r] / T_i)
    loss = soft mean_i T_i^2 D_i + hard (log sum exp(student) - student[target])
    d loss / d student_j = g_j for a kept j, g_rest exp(student_j - r) for the others, + hard part

where g = soft mean_i T_i (s - q sum s). Coarser outcomes can only bring distributions closer, so at
T = 1 the loss bounds that of the full rows from below. The rest is summed
without the kept outcomes, not as 1 minus their sum, so it is exact however little is left.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kernels.losses.divergence_terms import divergence_terms_reference
from kernels.losses.token_chunks import row_slices, wide_dtype


class Mix(NamedTuple):
    """Which divergence and what it weighs beside the hard targets; temperatures come apart."""

    kind: str
    mixture: float
    soft_weight: float
    hard_weight: float
    ignore_index: int


class Kept(NamedTuple):
    """What a teacher kept of rows: scores (N, k + 1), the rest last; outcomes (N, k), or -1."""

    scores: Tensor
    outcomes: Tensor


def sparse_reference(
    student: Tensor, kept: Kept, temperatures: list[float], targets: Tensor | None, mix: Mix
) -> Tensor:
    """Losses (N,) by the formula in plain torch, differentiable in `student`."""
    x = student.to(wide_dtype(student))
    picked, others, _ = _split(x, kept)
    outcomes = torch.cat((picked, others.logsumexp(dim=-1, keepdim=True)), dim=-1)
    losses, _ = _coarse(kept, outcomes, temperatures, mix)
    return _losses_of(x, losses, targets, mix)


def _coarse(
    kept: Kept, outcomes: Tensor, temperatures: list[float], mix: Mix
) -> tuple[Tensor, Tensor]:
    """Losses (N,) of the k + 1 outcomes' logits, and their gradient g (N, k + 1)."""
    losses, slopes = torch.zeros_like(outcomes[:, 0]), torch.zeros_like(outcomes)
    # An outcome that is not there has no probability in either.
    scores = kept.scores.to(outcomes.dtype).masked_fill(outcomes == float("-inf"), float("-inf"))
    for temperature in temperatures:
        log_p = (scores / temperature).log_softmax(-1)
        log_q = (outcomes / temperature).log_softmax(-1)
        terms, slope = divergence_terms_reference(mix.kind, mix.mixture, log_p, log_q)
        losses = losses + temperature**2 * terms.sum(dim=-1)
        slopes += temperature * (slope - log_q.exp() * slope.sum(dim=-1, keepdim=True)).detach()
    share = mix.soft_weight / len(temperatures)
    return losses * share, slopes * share


def _losses_of(x: Tensor, losses: Tensor, targets: Tensor | None, mix: Mix) -> Tensor:
    if targets is None:
        return losses
    counted = targets != mix.ignore_index
    if mix.hard_weight:
        named = x.gather(1, targets.where(counted, 0)[:, None]).squeeze(1)
        losses = losses + mix.hard_weight * (x.logsumexp(dim=-1) - named)
    return losses.where(counted, 0.0)


def _split(x: Tensor, kept: Kept) -> tuple[Tensor, Tensor, Tensor]:
    """(kept logits (N, k), -inf where none; the row without them, -inf there; column of each)."""
    there = (kept.outcomes >= 0) & (kept.outcomes < x.shape[1])
    columns = kept.outcomes.where(there, x.shape[1]).long()
    taken = x.new_zeros((x.shape[0], x.shape[1] + 1), dtype=torch.bool).scatter_(1, columns, True)
    picked = x.gather(1, columns.where(there, 0)).masked_fill(~there, float("-inf"))
    return picked, x.masked_fill(taken[:, :-1], float("-inf")), columns


def sparse_rows_in_torch(
    student: Tensor,
    kept: Kept,
    temperatures: list[float],
    targets: Tensor | None,
    weights: Tensor | None,
    mix: Mix,
) -> Tensor:
    """Losses (N,); with `weights` (N,) also puts weights * d loss / d student over `student`.

    A few rows at a time, so that the copies it makes stay small.
    """
    losses = student.new_empty(student.shape[:1], dtype=wide_dtype(student))
    for rows in row_slices(student):
        x, part = student[rows].to(losses.dtype), Kept(kept.scores[rows], kept.outcomes[rows])
        named = None if targets is None else targets[rows]
        picked, others, columns = _split(x, part)
        rest = others.logsumexp(dim=-1, keepdim=True)
        found, slopes = _coarse(part, torch.cat((picked, rest), dim=-1), temperatures, mix)
        losses[rows] = _losses_of(x, found, named, mix)
        if weights is not None:
            gradient = _spread(others - rest, slopes, columns)
            _add_hard(gradient, x, named, mix)
            torch.mul(gradient, weights[rows, None], out=student[rows])
    return losses


def _spread(shares: Tensor, slopes: Tensor, columns: Tensor) -> Tensor:
    """(N, V): the kept outcomes' slopes in their columns, elsewhere the rest's by log-shares."""
    gradient = shares.new_empty((shares.shape[0], shares.shape[1] + 1))
    torch.mul(shares.exp_(), slopes[:, -1:], out=gradient[:, :-1])
    # Outcomes that are not there go to a column of their own, which is left out.
    return gradient.scatter_(1, columns, slopes[:, :-1])[:, :-1]


def _add_hard(gradient: Tensor, x: Tensor, targets: Tensor | None, mix: Mix) -> None:
    if targets is None:
        return
    counted = (targets != mix.ignore_index)[:, None]
    if mix.hard_weight:
        gradient += mix.hard_weight * x.softmax(dim=-1)
        share = torch.full_like(x[:, :1], -mix.hard_weight)
        gradient.scatter_add_(1, targets[:, None].where(counted, 0), share)
    gradient.masked_fill_(~counted, 0.0)
