"""Divergences by torch's own KL in fp64, written apart from ours. Knows nothing of kernels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) over the last axis; outcomes that p excludes count nothing."""
    pointwise = F.kl_div(log_q, log_p, log_target=True, reduction="none")
    return pointwise.where(log_p > -torch.inf, 0.0).sum(-1)


def between(kind: str, mixture: float, log_p: Tensor, log_q: Tensor) -> Tensor:
    """The divergence between teacher p and student q over the last axis."""
    p, q = log_p.exp(), log_q.exp()
    toward_teacher = (mixture * p + (1 - mixture) * q).log()
    toward_student = (mixture * q + (1 - mixture) * p).log()
    found: dict[str, Tensor] = {
        "forward_kl": kl(log_p, log_q),
        "reverse_kl": kl(log_q, log_p),
        "combined": mixture * kl(log_p, log_q) + (1 - mixture) * kl(log_q, log_p),
        "jsd": mixture * kl(log_p, toward_teacher) + (1 - mixture) * kl(log_q, toward_teacher),
        "tvd": (p - q).abs().sum(-1) / 2,
        "skew_kl": kl(log_p, toward_teacher),
        "skew_reverse_kl": kl(log_q, toward_student),
    }
    return found[kind]


def distillation(
    kind: str,
    mixture: float,
    student: Tensor,
    teacher: Tensor,
    targets: Tensor | None = None,
    temperature: float = 1.0,
    soft_weight: float = 1.0,
    hard_weight: float = 0.0,
    ignore_index: int = -100,
) -> Tensor:
    """Losses (N,) in fp64 of logits (N, V) each, differentiable in the student's."""
    x = student.double()
    log_p = (teacher.double() / temperature).log_softmax(-1)
    losses = temperature**2 * soft_weight * between(
        kind, mixture, log_p, (x / temperature).log_softmax(-1)
    )  # fmt: skip
    if targets is None:
        return losses
    hard = F.cross_entropy(x, targets, reduction="none", ignore_index=ignore_index)
    return (losses + hard_weight * hard).where(targets != ignore_index, 0.0)
