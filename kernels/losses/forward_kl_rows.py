"""Forward KL of rows of logits on a CPU, in as few passes over them as it takes. Knows no autograd.

    D = sum p log(p / q) + q - p,    d D / d z = q - p,    p, q = softmax(teacher / T, student / T)

What `divergence_mix` computes for every divergence, for the one most used: of a row that is
hundreds of kilobytes, every pass saved counts. Terms are at least 0, so that a small sum is exact.
"""

from __future__ import annotations

import torch
from torch import Tensor


def forward_kl_rows(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """D (n,) and q - p (n, V) of float32 or wider rows of one width.

    D is NaN where infinite logits need more care than this takes.
    """
    log_q, log_p = (
        (x if temperature == 1.0 else x / temperature).log_softmax(-1) for x in (student, teacher)
    )
    p = log_p.exp()
    slope = log_q.exp().sub_(p)
    relative = log_p.sub_(log_q)
    return torch.addcmul(slope, p, relative, out=relative).sum(-1), slope
