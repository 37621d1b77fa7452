"""Ranking losses of ragged groups, trained through. Knows nothing of slates or models.

The formulas are those of `ranking_terms`; group g is scores[offsets[g] : offsets[g + 1]]. One
program takes one group, of at most 1024 items, in registers, and compares a few items with all of
them at a time. The gradients come with the losses, each from a sum along one axis, so nothing is
added atomically. 8 bytes an item are read and 4 written; all float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.checks import FLOATS, check_dtype, check_same_device, check_shape
from kernels.dispatch import Operator, choose_backend, jit, tl, triton
from kernels.ranking_terms import KINDS, ranking_loss_reference
from kernels.reduction import check_reduction
from kernels.variant import Cost, Variant

MAX_LENGTH = 1024
PAIRS = 2048  # compared by a program at a time


@jit
def _comes_before(a: tl.tensor, a_slot: tl.tensor, b: tl.tensor, b_slot: tl.tensor) -> tl.tensor:
    return (a > b) | ((a == b) & (a_slot < b_slot))


@jit
def _ranking_kernel(
    losses_ptr: tl.tensor,
    gradient_ptr: tl.tensor,
    scores_ptr: tl.tensor,
    targets_ptr: tl.tensor,
    offsets_ptr: tl.tensor,
    temperature: float,
    mu: float,
    KIND: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    # One program per group; j runs over all its items, i over ROWS of them at a time.
    group = tl.program_id(0).to(tl.int64)
    start = tl.load(offsets_ptr + group).to(tl.int64)
    count = (tl.load(offsets_ptr + group + 1).to(tl.int64) - start).to(tl.int32)
    slots = tl.arange(0, BLOCK)
    inside = slots < count
    s = tl.load(scores_ptr + start + slots, inside, 0.0).to(tl.float32)
    t = tl.load(targets_ptr + start + slots, inside, 0.0).to(tl.float32)
    gradients = gradient_ptr + start
    loss = 0.0
    if KIND == "listnet":
        x = tl.where(inside, s / temperature, float("-inf"))
        y = tl.where(inside, t / temperature, float("-inf"))
        x -= tl.max(x, axis=0)
        y -= tl.max(y, axis=0)
        q = tl.exp(x)
        q_sum = tl.sum(q, axis=0)
        p = tl.exp(y)
        p = p / tl.sum(p, axis=0)
        log_q = x - tl.log(q_sum)
        loss = -tl.sum(tl.where(inside, p * log_q, 0.0), axis=0)
        tl.store(gradients + slots, (q / q_sum - p) / temperature, inside)
    elif KIND == "margin_mse":
        # sum_ij (d_i - d_j)^2 = 2 n sum_i (d_i - mean d)^2 with d = s - t.
        mean = tl.sum(s - t, axis=0) / tl.maximum(count, 1)
        d = tl.where(inside, s - t - mean, 0.0)
        others = tl.maximum(count - 1, 1)
        loss = 2.0 * tl.sum(d * d, axis=0) / others
        tl.store(gradients + slots, 4.0 * d / others, inside)
    else:
        places = tl.arange(0, ROWS)
        pairs = tl.zeros((BLOCK,), tl.float32)
        rank = tl.full((BLOCK,), 1.0, tl.float32)
        ideal_rank = tl.full((BLOCK,), 1.0, tl.float32)
        for first in range(0, count, ROWS):
            i = (first + places)[:, None]
            j = slots[None, :]
            s_i = tl.load(scores_ptr + start + i, i < count, 0.0).to(tl.float32)
            t_i = tl.load(targets_ptr + start + i, i < count, 0.0).to(tl.float32)
            both = (i < count) & (j < count)
            pairs += tl.sum(tl.where(both & (t_i > t[None, :]), 1.0, 0.0), axis=0)
            if KIND == "lambdaloss":
                ahead = both & _comes_before(s_i, i, s[None, :], j)
                rank += tl.sum(tl.where(ahead, 1.0, 0.0), axis=0)
                ahead = both & _comes_before(t_i, i, t[None, :], j)
                ideal_rank += tl.sum(tl.where(ahead, 1.0, 0.0), axis=0)
        if KIND == "ranknet":
            scale = 1.0 / tl.maximum(tl.sum(pairs, axis=0), 1.0)
        else:
            gains = tl.exp2(t) - 1.0
            ideal = tl.sum(tl.where(inside, gains / tl.log2(1.0 + ideal_rank), 0.0), axis=0)
            # Losses are counted in bits.
            scale = tl.where(ideal > 0.0, 1.0 / (ideal * 0.6931471805599453), 0.0)
        total = tl.zeros((ROWS,), tl.float32)
        for first in range(0, count, ROWS):
            i = (first + places)[:, None]
            j = slots[None, :]
            s_i = tl.load(scores_ptr + start + i, i < count, 0.0).to(tl.float32)
            t_i = tl.load(targets_ptr + start + i, i < count, 0.0).to(tl.float32)
            both = (i < count) & (j < count)
            sign = tl.where(t_i > t[None, :], 1.0, tl.where(t_i < t[None, :], -1.0, 0.0))
            gap = (s_i - s[None, :]) * sign / temperature
            weight = tl.where(both & (sign != 0.0), scale, 0.0)
            if KIND == "lambdaloss":
                ahead = both & _comes_before(s[None, :], j, s_i, i)
                rank_i = 1.0 + tl.sum(tl.where(ahead, 1.0, 0.0), axis=1)[:, None]
                rank_j = rank[None, :]
                apart = tl.abs(rank_i - rank_j)
                shift = 1.0 / tl.log2(1.0 + tl.maximum(apart, 1.0)) - 1.0 / tl.log2(2.0 + apart)
                swap = tl.abs(1.0 / tl.log2(1.0 + rank_i) - 1.0 / tl.log2(1.0 + rank_j))
                weight *= tl.abs(tl.exp2(t_i) - tl.exp2(t[None, :])) * (swap + mu * shift)
            small = tl.exp(-tl.abs(gap))
            losses = tl.maximum(-gap, 0.0) + tl.log(1.0 + small)
            total += tl.sum(tl.where(sign > 0.0, weight * losses, 0.0), axis=1)
            slope = weight * tl.where(gap > 0.0, small, 1.0) / (1.0 + small)
            gradient = tl.sum(-sign * slope, axis=1) / temperature
            tl.store(gradients + first + places, gradient, first + places < count)
        loss = tl.sum(total, axis=0)
    # A group longer than the bound the caller gave shows as NaN.
    loss = tl.where(count > 0, loss, 0.0)
    tl.store(losses_ptr + group, tl.where(count <= BLOCK, loss, float("nan")))


def _losses_and_gradient(
    scores: Tensor,
    targets: Tensor,
    offsets: Tensor,
    kind: str,
    temperature: float,
    mu: float,
    max_length: int,
) -> tuple[Tensor, Tensor]:
    """Losses (G,) and d losses / d scores (T,), float32, operands contiguous."""
    losses, gradient = _empty(scores, targets, offsets)
    if losses.shape[0]:
        _ranking_kernel[(losses.shape[0],)](
            losses,
            gradient.zero_(),
            scores,
            targets,
            offsets,
            temperature,
            mu,
            KIND=kind,
            **block_sizes(max_length),
        )
    return losses, gradient


def _empty(scores: Tensor, targets: Tensor, offsets: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    losses = scores.new_empty((offsets.shape[0] - 1,), dtype=torch.float32)
    return losses, torch.empty_like(scores, dtype=torch.float32)


ranking_operator = Operator("fairslate::ranking_loss", _losses_and_gradient, _empty)


def block_sizes(max_length: int) -> dict[str, int]:
    """All items along one axis, and along the other as many as keep the pairs in registers."""
    block = max(2, triton.next_power_of_2(max_length))
    rows = max(1, min(block, PAIRS // block))
    return {"BLOCK": block, "ROWS": rows, "num_warps": max(1, min(8, block * rows // 256))}


class _RankingLoss(torch.autograd.Function):
    """Losses of groups; the backward pass scales each group's gradient by its upstream factor."""

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, targets: Tensor, offsets: Tensor, *settings: Any
    ) -> Tensor:
        losses, gradient = ranking_operator(scores, targets, offsets, *settings)
        ctx.save_for_backward(gradient, offsets)
        ctx.dtype, ctx.others = scores.dtype, 2 + len(settings)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradient, offsets = ctx.saved_tensors
        items = torch.arange(gradient.shape[0], device=gradient.device, dtype=offsets.dtype)
        groups = torch.bucketize(items, offsets[1:], right=True).clamp_max(upstream.shape[0] - 1)
        return ((gradient * upstream[groups]).to(ctx.dtype), *[None] * ctx.others)


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
        losses = _RankingLoss.apply(*operands, kind, temperature, mu, max_length)  # type: ignore[no-untyped-call]
    if reduction == "none":
        return losses
    return losses.sum() / (max(1, offsets.shape[0] - 1) if reduction == "mean" else 1)


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


def variants() -> list[Variant]:
    """Every loss of the longest groups, and that with the most terms of short ones."""
    return [*(_variant(kind, MAX_LENGTH) for kind in KINDS), _variant("lambdaloss", 16)]


def _variant(kind: str, max_length: int) -> Variant:
    sizes = block_sizes(max_length)
    warps = sizes.pop("num_warps")
    pointers = ("losses_ptr", "gradient_ptr", "scores_ptr", "targets_ptr")
    signature = dict.fromkeys(pointers, "*fp32") | {"offsets_ptr": "*i64"}
    signature |= {"temperature": "fp32", "mu": "fp32"}
    constants = {"KIND": kind, **sizes}
    signature |= dict.fromkeys(constants, "constexpr")
    shape = f"N={max_length} fp32 {kind}"
    return Variant(_ranking_kernel, signature, constants, num_warps=warps, shape=shape)
