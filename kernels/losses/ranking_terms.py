"""Losses that compare the order of scores within groups, pair by pair. Knows no kernel.

A group holds n scores s and targets t: a teacher's scores, or grades. Pairs (i, j) are those with
t_i > t_j, P of them, T is the temperature:

    listnet     -sum softmax(t / T) log softmax(s / T)               Cao et al. 2007
    ranknet     1/P sum_pairs log(1 + exp(-(s_i - s_j) / T))         Burges et al. 2005
    margin_mse  1/(n (n - 1)) sum_ij ((s_i - s_j) - (t_i - t_j))^2   Hofstaetter et al. 2020
    lambdaloss  sum_pairs w_ij log2(1 + exp(-(s_i - s_j) / T))       Wang et al. 2018

    w_ij = |G_i - G_j| (|1/D(r_i) - 1/D(r_j)| + mu (1/D(|r_i - r_j|) - 1/D(|r_i - r_j| + 1)))
    G = (2^t - 1) / ideal DCG,  D(r) = log2(1 + r),  r = rank by s, ties by index, not trained

mu = 0 gives LambdaRank's weights, the paper's 10 those of NDCG-Loss2++. A group without pairs, or
without a gain, loses 0.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

KINDS = ("listnet", "ranknet", "margin_mse", "lambdaloss")


def ranking_loss_reference(
    scores: Tensor,
    targets: Tensor,
    offsets: Tensor,
    kind: str,
    temperature: float = 1.0,
    mu: float = 10.0,
) -> Tensor:
    """Losses (G,) of the groups in turn, differentiable in `scores`; float32 or wider."""
    wide = torch.promote_types(scores.dtype, torch.float32)
    s, t = scores.to(wide), targets.detach().to(wide)
    losses = [
        _group_loss(s[start:stop], t[start:stop], kind, temperature, mu)
        for start, stop in pairwise(offsets.tolist())
    ]
    return torch.stack(losses) if losses else s.sum() * s.new_zeros(0)


def _group_loss(s: Tensor, t: Tensor, kind: str, temperature: float, mu: float) -> Tensor:
    if kind == "listnet":
        return -((t / temperature).softmax(0) * (s / temperature).log_softmax(0)).sum()
    if kind == "margin_mse":
        gaps = (s[:, None] - s) - (t[:, None] - t)
        return gaps.square().sum() / max(1, len(s) * (len(s) - 1))
    better = t[:, None] > t
    pair_losses = torch.nn.functional.softplus((s - s[:, None]) / temperature)
    if kind == "ranknet":
        return (pair_losses * better).sum() / better.sum().clamp_min(1)
    weights = lambda_weights(s.detach(), t, mu) * better
    return (weights * pair_losses).sum() / math.log(2)


def lambda_weights(s: Tensor, t: Tensor, mu: float) -> Tensor:
    """w_ij (n, n) of one group's scores and targets, for all i and j."""
    ranks = s.argsort(descending=True, stable=True).argsort() + 1
    gains = torch.exp2(t) - 1
    places = torch.arange(1, len(t) + 1, device=t.device)
    ideal = (gains.sort(descending=True).values / _discount(places).to(t.dtype)).sum()
    swap = (1 / _discount(ranks)[:, None] - 1 / _discount(ranks)).abs()
    apart = (ranks[:, None] - ranks).abs()
    shift = (1 / _discount(apart.clamp_min(1)) - 1 / _discount(apart + 1)) * (apart > 0)
    gain_gaps = (gains[:, None] - gains).abs() / ideal.where(ideal > 0, torch.inf)
    return gain_gaps * (swap + mu * shift).to(t.dtype)


def _discount(rank: Tensor) -> Tensor:
    return (1 + rank.double()).log2()
