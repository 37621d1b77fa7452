"""What a student's row of logits loses against a teacher's and a target. Knows no kernel.

    D    = divergence_terms of p = softmax(teacher / T), q = softmax(student / T), summed
    loss = soft T^2 D + hard (log sum exp(student) - student[target])

T^2 keeps the gradient's size at any temperature (Hinton et al. 2015); the hard part is taken at
temperature 1, as usual. A teacher's row may be shorter: its missing columns are -inf, probability
0. Rows whose target is `ignore_index` lose nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kernels.losses.divergence_terms import divergence_terms_reference, resolve
from kernels.losses.forward_kl_rows import forward_kl_rows
from kernels.losses.token_chunks import row_slices, wide_dtype


class Mix(NamedTuple):
    """Which divergence, at which temperature, and what it weighs beside the hard targets."""

    kind: str = "forward_kl"
    mixture: float = 0.0
    temperature: float = 1.0
    soft_weight: float = 1.0
    hard_weight: float = 0.0
    ignore_index: int = -100


def distillation_reference(
    student: Tensor, teacher: Tensor, targets: Tensor | None, mix: Mix
) -> Tensor:
    """Losses (N,) by the formula in plain torch, differentiable in `student`."""
    x, log_p, log_q = _log_probabilities(student, teacher, mix)
    terms, _ = divergence_terms_reference(mix.kind, mix.mixture, log_p, log_q)
    return _losses_of(x, terms.sum(dim=-1), targets, mix)


def _losses_of(x: Tensor, divergences: Tensor, targets: Tensor | None, mix: Mix) -> Tensor:
    losses = mix.soft_weight * mix.temperature**2 * divergences
    if targets is None:
        return losses
    kept = targets != mix.ignore_index
    if mix.hard_weight:
        picked = x.gather(1, targets.where(kept, 0)[:, None]).squeeze(1)
        losses = losses + mix.hard_weight * (x.logsumexp(dim=-1) - picked)
    return losses.where(kept, 0.0)


def checked_mix(
    kind: str,
    mixture: float | None,
    temperature: float,
    soft_weight: float,
    hard_weight: float,
    ignore_index: int,
) -> Mix:
    """The settings of the loss; raises ValueError naming one out of its range."""
    kind, chosen = resolve(kind, mixture)
    if not temperature > 0.0:
        raise ValueError(f"temperature is {temperature}; pass more than 0")
    for name, value in (("soft_weight", soft_weight), ("hard_weight", hard_weight)):
        if not value >= 0.0:
            raise ValueError(f"{name} is {value}; pass 0 or more")
    return Mix(kind, chosen, temperature, soft_weight, hard_weight, ignore_index)


def distillation_rows_in_torch(
    student: Tensor, teacher: Tensor, targets: Tensor | None, weights: Tensor | None, mix: Mix
) -> Tensor:
    """Losses (N,); with `weights` (N,) also puts weights * d loss / d student over `student`.

    A few rows at a time, so that the copies it makes stay small.
    """
    losses = student.new_empty(student.shape[:1], dtype=wide_dtype(student))
    for rows in row_slices(student):
        named = None if targets is None else targets[rows]
        scale = None if weights is None else weights[rows, None]
        if not _by_forward_kl(losses[rows], student[rows], teacher[rows], named, scale, mix):
            losses[rows] = _in_general(student[rows], teacher[rows], named, scale, mix)
    return losses


def _in_general(
    student: Tensor, teacher: Tensor, targets: Tensor | None, scale: Tensor | None, mix: Mix
) -> Tensor:
    """The losses of a few rows; with `scale` (n, 1) their gradient goes over `student`.

    The derivative is written out: autograd would keep copies of the rows.
    """
    x, log_p, log_q = _log_probabilities(student, teacher, mix)
    terms, slope = divergence_terms_reference(mix.kind, mix.mixture, log_p, log_q)
    losses = _losses_of(x, terms.sum(dim=-1), targets, mix)
    if scale is not None:
        gradient = slope - log_q.exp() * slope.sum(dim=-1, keepdim=True)
        torch.mul(_gradient_of(x, gradient, targets, mix), scale, out=student)
    return losses


def _by_forward_kl(
    losses: Tensor,
    student: Tensor,
    teacher: Tensor,
    targets: Tensor | None,
    scale: Tensor | None,
    mix: Mix,
) -> bool:
    """As `_in_general`, on a CPU, for forward KL; False, and nothing done, for what it is not."""
    if mix.kind != "forward_kl" or student.shape != teacher.shape or not student.is_cpu:
        return False
    if not student.dtype == teacher.dtype == losses.dtype:
        return False
    divergences, gradient = forward_kl_rows(student, teacher, mix.temperature)
    if not divergences.isfinite().all():
        return False
    losses.copy_(_losses_of(student, divergences, targets, mix))
    if scale is not None:
        torch.mul(_gradient_of(student, gradient, targets, mix), scale, out=student)
    return True


def _gradient_of(x: Tensor, gradient: Tensor, targets: Tensor | None, mix: Mix) -> Tensor:
    """d loss / d x, from the divergence's own by log q, in place."""
    gradient *= mix.soft_weight * mix.temperature
    if targets is None:
        return gradient
    kept = (targets != mix.ignore_index)[:, None]
    if mix.hard_weight:
        gradient += mix.hard_weight * x.softmax(dim=-1)
        share = torch.full_like(x[:, :1], -mix.hard_weight)
        gradient.scatter_add_(1, targets[:, None].where(kept, 0), share)
    return gradient.masked_fill_(~kept, 0.0)


def _log_probabilities(student: Tensor, teacher: Tensor, mix: Mix) -> tuple[Tensor, Tensor, Tensor]:
    """(student, log p, log q), wide; the teacher's missing columns are -inf."""
    x, y = student.to(wide_dtype(student)), teacher.to(wide_dtype(student))
    missing = x.shape[1] - y.shape[1]
    if missing:
        y = torch.nn.functional.pad(y, (0, missing), value=float("-inf"))
    return x, (y / mix.temperature).log_softmax(-1), (x / mix.temperature).log_softmax(-1)
