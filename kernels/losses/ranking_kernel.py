"""The Triton kernels of the ranking losses and of their backward pass. Knows nothing of autograd.

A program takes one group in registers and compares a few items with all of them at a time. Sums
run along one axis, in float32, so that nothing is added atomically.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.base.dispatch import Operator, jit, tl, triton
from kernels.base.variant import Variant
from kernels.losses.ranking_terms import KINDS

MAX_LENGTH = 1024
PAIRS = 2048  # compared by a program at a time
SCALED = 128  # gradients multiplied by a program at a time


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
    GRADIENT: tl.constexpr,
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
        if GRADIENT:
            tl.store(gradients + slots, (q / q_sum - p) / temperature, inside)
    elif KIND == "margin_mse":
        # sum_ij (d_i - d_j)^2 = 2 n sum_i (d_i - mean d)^2 with d = s - t.
        mean = tl.sum(s - t, axis=0) / tl.maximum(count, 1)
        d = tl.where(inside, s - t - mean, 0.0)
        others = tl.maximum(count - 1, 1)
        loss = 2.0 * tl.sum(d * d, axis=0) / others
        if GRADIENT:
            tl.store(gradients + slots, 4.0 * d / others, inside)
    else:
        places = tl.arange(0, ROWS)
        j = slots[None, :]
        pairs = tl.zeros((BLOCK,), tl.float32)
        slopes = tl.zeros((BLOCK,), tl.float32)
        total = tl.zeros((BLOCK,), tl.float32)
        if KIND == "lambdaloss":
            rank = tl.full((BLOCK,), 1.0, tl.float32)
            ideal_rank = tl.full((BLOCK,), 1.0, tl.float32)
            for first in range(0, count, ROWS):
                i = (first + places)[:, None]
                s_i = tl.load(scores_ptr + start + i, i < count, 0.0).to(tl.float32)
                t_i = tl.load(targets_ptr + start + i, i < count, 0.0).to(tl.float32)
                both = (i < count) & (j < count)
                ahead = both & _comes_before(s_i, i, s[None, :], j)
                rank += tl.sum(tl.where(ahead, 1.0, 0.0), axis=0)
                ahead = both & _comes_before(t_i, i, t[None, :], j)
                ideal_rank += tl.sum(tl.where(ahead, 1.0, 0.0), axis=0)
        for first in range(0, count, ROWS):
            i = (first + places)[:, None]
            s_i = tl.load(scores_ptr + start + i, i < count, 0.0).to(tl.float32)
            t_i = tl.load(targets_ptr + start + i, i < count, 0.0).to(tl.float32)
            both = (i < count) & (j < count)
            sign = tl.where(t_i > t[None, :], 1.0, tl.where(t_i < t[None, :], -1.0, 0.0))
            gap = (s_i - s[None, :]) * sign / temperature
            weight = tl.where(both & (sign != 0.0), 1.0, 0.0)
            if KIND == "ranknet":
                pairs += tl.sum(tl.where(sign > 0.0, weight, 0.0), axis=0)
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
            total += tl.sum(tl.where(sign > 0.0, weight * losses, 0.0), axis=0)
            if GRADIENT:
                slope = weight * tl.where(gap > 0.0, small, 1.0) / (1.0 + small)
                slopes += tl.sum(sign * slope, axis=0)
        if KIND == "ranknet":
            scale = 1.0 / tl.maximum(tl.sum(pairs, axis=0), 1.0)
        else:
            gains = tl.exp2(t) - 1.0
            ideal = tl.sum(tl.where(inside, gains / tl.log2(1.0 + ideal_rank), 0.0), axis=0)
            # Losses are counted in bits.
            scale = tl.where(ideal > 0.0, 1.0 / (ideal * 0.6931471805599453), 0.0)
        loss = tl.sum(total, axis=0) * scale
        if GRADIENT:
            tl.store(gradients + slots, slopes * (scale / temperature), inside)
    # A group longer than the bound the caller gave shows as NaN.
    if GRADIENT:
        for first in range(BLOCK, count, BLOCK):
            tl.store(gradients + first + slots, float("nan"), first + slots < count)
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
    wanted: bool,
) -> tuple[Tensor, Tensor]:
    """Losses (G,) and, if `wanted`, d losses / d scores (T,), float32, operands contiguous."""
    settings = (kind, temperature, mu, max_length, wanted)
    losses, gradient = _empty(scores, targets, offsets, *settings)
    if losses.shape[0]:
        _ranking_kernel[(losses.shape[0],)](
            losses,
            gradient,
            scores,
            targets,
            offsets,
            temperature,
            mu,
            KIND=kind,
            GRADIENT=wanted,
            **block_sizes(max_length),
        )
    return losses, gradient


def _empty(
    scores: Tensor, targets: Tensor, offsets: Tensor, *settings: Any
) -> tuple[Tensor, Tensor]:
    losses = scores.new_empty((offsets.shape[0] - 1,), dtype=torch.float32)
    return losses, losses.new_empty(scores.shape if settings[-1] else (0,))


@jit
def _scale_groups_kernel(
    out_ptr: tl.tensor,
    gradient_ptr: tl.tensor,
    upstream_ptr: tl.tensor,
    upstream_step: int,
    offsets_ptr: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    # One program per group.
    group = tl.program_id(0).to(tl.int64)
    start = tl.load(offsets_ptr + group).to(tl.int64)
    stop = tl.load(offsets_ptr + group + 1).to(tl.int64)
    factor = tl.load(upstream_ptr + group * upstream_step).to(tl.float32)
    for first in range(start, stop, BLOCK):
        items = first + tl.arange(0, BLOCK)
        scaled = tl.load(gradient_ptr + items, items < stop, 0.0).to(tl.float32) * factor
        tl.store(out_ptr + items, scaled.to(out_ptr.dtype.element_ty), items < stop)


def _scale_groups(
    gradient: Tensor, upstream: Tensor, offsets: Tensor, dtype: torch.dtype
) -> Tensor:
    """gradient (T,) times its group's upstream (G,), which may be one value expanded."""
    out = torch.empty_like(gradient, dtype=dtype)
    if upstream.shape[0]:
        _scale_groups_kernel[(upstream.shape[0],)](
            out, gradient, upstream, upstream.stride(0), offsets, BLOCK=SCALED, num_warps=1
        )
    return out


def _empty_scaled(
    gradient: Tensor, upstream: Tensor, offsets: Tensor, dtype: torch.dtype
) -> Tensor:
    return torch.empty_like(gradient, dtype=dtype)


ranking_operator = Operator("fairslate::ranking_loss", _losses_and_gradient, _empty)
scaling_operator = Operator("fairslate::ranking_loss_scale", _scale_groups, _empty_scaled)


def block_sizes(max_length: int) -> dict[str, int]:
    """All items along one axis, and along the other as many as keep the pairs in registers."""
    block = max(2, triton.next_power_of_2(max_length))
    rows = max(1, min(block, PAIRS // block))
    return {"BLOCK": block, "ROWS": rows, "num_warps": max(1, min(8, block * rows // 256))}


def variants() -> list[Variant]:
    """Every loss of the longest groups, that with the most terms of short ones, the scaling."""
    losses = [*(_variant(kind, MAX_LENGTH) for kind in KINDS), _variant("lambdaloss", 16)]
    pointers = dict.fromkeys(("out_ptr", "gradient_ptr", "upstream_ptr"), "*fp32")
    signature = pointers | {"upstream_step": "i32", "offsets_ptr": "*i64", "BLOCK": "constexpr"}
    scaling = Variant(_scale_groups_kernel, signature, {"BLOCK": SCALED}, 1, shape="fp32")
    return [*losses, scaling]


def _variant(kind: str, max_length: int) -> Variant:
    sizes = block_sizes(max_length)
    warps = sizes.pop("num_warps")
    pointers = ("losses_ptr", "gradient_ptr", "scores_ptr", "targets_ptr")
    signature = dict.fromkeys(pointers, "*fp32") | {"offsets_ptr": "*i64"}
    signature |= {"temperature": "fp32", "mu": "fp32"}
    constants = {"KIND": kind, "GRADIENT": True, **sizes}
    signature |= dict.fromkeys(constants, "constexpr")
    shape = f"N={max_length} fp32 {kind}"
    return Variant(_ranking_kernel, signature, constants, num_warps=warps, shape=shape)
