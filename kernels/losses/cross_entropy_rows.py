"""Losses and gradients of rows of logits against integer targets. Knows nothing of autograd.

    x    = softcap tanh(logit / softcap), or the logit itself
    lse  = log sum_j exp(x_j)
    loss = lse - (1 - e) x_target - e mean_j(x_j) + z lse^2       e: label smoothing, z: z-loss
    d loss / d x_j = (1 + 2 z lse) exp(x_j - lse) - e / V - (1 - e) [j = target]

Logits are read once for the losses, and read and written once more for the gradient: three passes
of N * V values. Any float dtype comes in; sums and losses are float32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kernels.base.dispatch import jit, tl, triton
from kernels.base.variant import Variant
from kernels.losses.online_softmax import LOWEST, merge, take_in
from kernels.losses.token_chunks import row_slices, wide_dtype

BLOCK = 4096
WARPS = 8


class Terms(NamedTuple):
    """What the loss of a row is made of; the values are those of plain cross-entropy."""

    ignore_index: int = -100
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    softcap: float | None = None


def cross_entropy_reference(logits: Tensor, targets: Tensor, terms: Terms) -> Tensor:
    """Losses (N,) by the formula in plain torch, differentiable, float32 or wider throughout."""
    x = _capped(logits, terms)
    return _losses_of(x, x.logsumexp(dim=-1), targets, terms)


def _losses_of(x: Tensor, lse: Tensor, targets: Tensor, terms: Terms) -> Tensor:
    kept = targets != terms.ignore_index
    picked = x.gather(1, targets.where(kept, 0)[:, None]).squeeze(1)
    loss = lse - (1 - terms.label_smoothing) * picked + terms.z_loss * lse.square()
    if terms.label_smoothing:
        loss = loss - terms.label_smoothing * x.mean(dim=-1)
    return loss.where(kept, 0.0)


def _capped(logits: Tensor, terms: Terms) -> Tensor:
    x = logits.to(wide_dtype(logits))
    return x if terms.softcap is None else terms.softcap * torch.tanh(x / terms.softcap)


@jit
def _softcapped(x: tl.tensor, softcap: float) -> tl.tensor:
    """softcap * tanh(x / softcap) and its slope; near 0, where 1 - exp cancels, by the series."""
    y = x / softcap
    fading = tl.exp(-2.0 * tl.abs(y))
    far = (1.0 - fading) / (1.0 + fading)
    far = tl.where(y < 0.0, -far, far)
    y2 = y * y
    near = y * (1.0 - y2 * (1 / 3 - y2 * (2 / 15 - y2 * (17 / 315 - y2 * (62 / 2835)))))
    tanh = tl.where(tl.abs(y) < 0.2, near, far)
    return softcap * tanh, 1.0 - tanh * tanh


@jit
def _cross_entropy_kernel(
    losses_ptr: tl.tensor,
    lse_ptr: tl.tensor,
    gradient_ptr: tl.tensor,
    gradient_row_stride: int,
    logits_ptr: tl.tensor,
    logits_row_stride: int,
    targets_ptr: tl.tensor,
    weights_ptr: tl.tensor,
    weights_step: int,
    vocabulary_size: int,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    softcap: float,
    HAS_SMOOTHING: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    LOSSES: tl.constexpr,
    GRADIENT: tl.constexpr,
    LOWEST: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    # One program per row: losses alone, the gradient alone from a kept lse, or both at once.
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets_ptr + row)
    kept = target != ignore_index
    read_size = tl.where(kept, vocabulary_size, 0)  # ignored rows are not read
    logits = logits_ptr + row * logits_row_stride
    lanes = tl.arange(0, BLOCK)
    if LOSSES:
        highest = tl.full((BLOCK,), LOWEST, tl.float32)
        total = tl.zeros((BLOCK,), tl.float32)
        plain = tl.zeros((BLOCK,), tl.float32)
        # A target outside the vocabulary is never read and makes the loss NaN.
        named = kept & (target >= 0) & (target < vocabulary_size)
        picked = tl.load(logits + target, named, float("nan")).to(tl.float32)
        if HAS_SOFTCAP:
            picked, _ = _softcapped(picked, softcap)
        for start in range(0, read_size, BLOCK):
            columns = start + lanes
            inside = columns < vocabulary_size
            x = tl.load(logits + columns, inside, float("-inf")).to(tl.float32)
            if HAS_SOFTCAP:
                x, slope = _softcapped(x, softcap)
                x = tl.where(inside, x, float("-inf"))
            highest, total = take_in(x, highest, total)
            if HAS_SMOOTHING:
                plain += tl.where(inside, x, 0.0)
        lse = merge(highest, total)
        loss = lse - (1.0 - label_smoothing) * picked + z_loss * lse * lse
        if HAS_SMOOTHING:
            loss -= label_smoothing * (tl.sum(plain, axis=0) / vocabulary_size)
        lse = tl.where(kept, lse, 0.0)
        tl.store(losses_ptr + row, tl.where(kept, loss, 0.0))
        tl.store(lse_ptr + row, lse)
    else:
        lse = tl.load(lse_ptr + row).to(tl.float32)
    if GRADIENT:
        weight = tl.load(weights_ptr + row * weights_step).to(tl.float32)
        peak = weight * (1.0 + 2.0 * z_loss * lse)
        uniform = weight * (label_smoothing / vocabulary_size)
        outputs = gradient_ptr + row * gradient_row_stride
        for start in range(0, vocabulary_size, BLOCK):
            columns = start + lanes
            inside = columns < vocabulary_size
            x = tl.load(logits + columns, columns < read_size, float("-inf")).to(tl.float32)
            if HAS_SOFTCAP:
                x, slope = _softcapped(x, softcap)
            gradient = peak * tl.exp(x - lse) - uniform
            gradient -= tl.where(columns == target, weight * (1.0 - label_smoothing), 0.0)
            if HAS_SOFTCAP:
                gradient *= slope
            tl.store(outputs + columns, tl.where(kept, gradient, 0.0), inside)


def block_sizes(vocabulary: int) -> dict[str, int]:
    """Sixteen values a thread: two accumulators of each still fit its registers."""
    block = min(BLOCK, triton.next_power_of_2(vocabulary))
    return {"BLOCK": block, "num_warps": max(1, min(WARPS, block // 512))}


def launch_cross_entropy(
    losses: Tensor | None,
    lse: Tensor,
    gradient: Tensor | None,
    logits: Tensor,
    targets: Tensor,
    weights: Tensor | None,
    terms: Terms,
) -> None:
    """Fills losses and lse (N,) float32, or reads lse when losses is None, and fills gradient.

    `weights` (N,) float32, of any stride, multiply the rows of `gradient`, which may be `logits`.
    """
    if logits.shape[0] == 0:
        return
    _cross_entropy_kernel[(logits.shape[0],)](
        losses,
        lse,
        gradient,
        0 if gradient is None else gradient.stride(0),
        logits,
        logits.stride(0),
        targets,
        weights,
        0 if weights is None else weights.stride(0),
        logits.shape[1],
        terms.ignore_index,
        terms.label_smoothing,
        terms.z_loss,
        terms.softcap or 0.0,
        HAS_SMOOTHING=terms.label_smoothing != 0.0,
        HAS_SOFTCAP=terms.softcap is not None,
        LOSSES=losses is not None,
        GRADIENT=gradient is not None,
        LOWEST=LOWEST,
        **block_sizes(logits.shape[1]),
    )


def cross_entropy_rows(
    logits: Tensor, targets: Tensor, weights: Tensor | None, terms: Terms, backend: str
) -> Tensor:
    """Losses (N,); with `weights` (N,) also puts weights * d loss / d logits in place of `logits`.

    Rows of `logits` (N, V) are contiguous. `backend` is "triton" or "torch".
    """
    if backend == "torch":
        return _rows_in_torch(logits, targets, weights, terms)
    losses = logits.new_empty(logits.shape[:1], dtype=torch.float32)
    gradient = None if weights is None else logits
    launch_cross_entropy(
        losses, torch.empty_like(losses), gradient, logits, targets, weights, terms
    )
    return losses


def _rows_in_torch(logits: Tensor, targets: Tensor, weights: Tensor | None, terms: Terms) -> Tensor:
    losses = logits.new_empty(logits.shape[:1], dtype=wide_dtype(logits))
    for rows in row_slices(logits):
        x = _capped(logits[rows], terms)
        lse = x.logsumexp(dim=-1)
        losses[rows] = _losses_of(x, lse, targets[rows], terms)
        if weights is not None:
            gradient = _gradient_of(x, lse[:, None], targets[rows], terms)
            torch.mul(gradient, weights[rows, None], out=logits[rows])
    return losses


def _gradient_of(x: Tensor, lse: Tensor, targets: Tensor, terms: Terms) -> Tensor:
    """The derivative written out: autograd would keep copies of the rows."""
    kept = (targets != terms.ignore_index)[:, None]
    gradient = torch.exp(x - lse)
    if terms.z_loss:
        gradient *= 1 + 2 * terms.z_loss * lse
    if terms.label_smoothing:
        gradient -= terms.label_smoothing / x.shape[1]
    share = torch.full_like(lse, terms.label_smoothing - 1)
    gradient.scatter_add_(1, targets[:, None].where(kept, 0), share)
    if terms.softcap is not None:
        gradient *= 1 - (x / terms.softcap).square()
    return gradient.masked_fill_(~kept, 0.0)


def variants() -> list[Variant]:
    """Both passes at once, as fused losses run it, and each alone, at the vocabularies of users."""
    passes = ((True, True), (True, False), (False, True))
    made = [_variant("bf16", 151_936, losses, gradient) for losses, gradient in passes]
    made += [_variant("bf16", 128_256, True, True), _variant("fp32", 151_936, True, True)]
    return [*made, _variant("bf16", 128_256, True, True, plain=False)]


def _variant(
    dtype: str, vocabulary: int, losses: bool, gradient: bool, plain: bool = True
) -> Variant:
    sizes = block_sizes(vocabulary)
    signature = dict.fromkeys(("losses_ptr", "lse_ptr", "weights_ptr"), "*fp32")
    signature |= dict.fromkeys(("gradient_ptr", "logits_ptr"), f"*{dtype}")
    signature |= {"targets_ptr": "*i64", "weights_step": "i32", "vocabulary_size": "i32"}
    signature |= {"gradient_row_stride": "i32", "logits_row_stride": "i32", "ignore_index": "i32"}
    signature |= dict.fromkeys(("label_smoothing", "z_loss", "softcap"), "fp32")
    flags = {"HAS_SMOOTHING": not plain, "HAS_SOFTCAP": not plain}
    constants = flags | {"LOSSES": losses, "GRADIENT": gradient, "LOWEST": LOWEST}
    constants["BLOCK"] = sizes["BLOCK"]
    signature |= dict.fromkeys(constants, "constexpr")
    what = "+".join(["losses"] * losses + ["gradient"] * gradient) + ("" if plain else " all terms")
    shape = f"V={vocabulary} {dtype} {what}"
    return Variant(_cross_entropy_kernel, signature, constants, sizes["num_warps"], shape=shape)
