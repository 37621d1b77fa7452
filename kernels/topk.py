"""The best k of each segment of ragged scores, ties by index. Knows nothing of slates or labels.

Segment s holds scores[cu_seqlens[s] : cu_seqlens[s + 1]], at most 1024 of them. Their order is that
of torch.sort(stable=True, descending=True): NaN first, -0 equal to 0, equal scores by index.

One program sorts one segment in registers. A score and its index make one 64-bit integer whose
order is the wanted one, so the bitonic network, which is not stable, meets no equal keys. T scores
are read, 12 bytes written for each of S * k answers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.base.checks import FLOATS, check_dtype, check_same_device, check_shape
from kernels.base.dispatch import Operator, choose_backend, jit, tl, triton
from kernels.base.variant import Cost, Variant

MAX_LENGTH = 1024


def segmented_topk_reference(
    scores: Tensor, cu_seqlens: Tensor, k: int, max_length: int
) -> tuple[Tensor, Tensor]:
    """Pads the segments to (S, max_length) and sorts the rows; shapes as in `segmented_topk`."""
    starts, lengths = cu_seqlens[:-1, None].long(), cu_seqlens.diff()[:, None].long()
    offsets = torch.arange(max_length, device=scores.device)
    inside = offsets < lengths
    cells = torch.where(inside, starts + offsets, 0)
    # The padding is last also among scores of -inf, because the sort is stable.
    padded = torch.where(inside, scores.float()[cells], -math.inf)
    values, indices = padded.sort(dim=1, descending=True, stable=True)
    return values[:, :k], torch.where(inside, indices, -1)[:, :k]


@jit
def _segmented_topk_kernel(
    values_ptr: tl.tensor,
    indices_ptr: tl.tensor,
    scores_ptr: tl.tensor,
    cu_seqlens_ptr: tl.tensor,
    k: int,
    BLOCK: tl.constexpr,
) -> None:
    # One program per segment.
    segment = tl.program_id(0).to(tl.int64)
    start = tl.load(cu_seqlens_ptr + segment).to(tl.int64)
    length = tl.load(cu_seqlens_ptr + segment + 1).to(tl.int64) - start
    slots = tl.arange(0, BLOCK)
    inside = slots < length
    score = tl.load(scores_ptr + start + slots, inside, 0.0).to(tl.float32)
    score = tl.where(score == 0.0, 0.0, score)  # -0 ties with 0
    score = tl.where(score != score, float("nan"), score)  # NaNs of all signs tie, above infinity
    bits = score.to(tl.int32, bitcast=True)
    # Negative floats order backwards as integers: flip all their bits but the sign.
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64)
    key = (ordered << 32) | (0x7FFFFFFF - slots).to(tl.int64)
    key = tl.sort(tl.where(inside, key, -0x8000000000000000), descending=True)
    index = 0x7FFFFFFF - (key & 0x7FFFFFFF)
    ordered = (key >> 32).to(tl.int32)
    bits = tl.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered)
    filled = slots < length
    value = tl.where(filled, bits.to(tl.float32, bitcast=True), float("-inf"))
    outputs = segment * k + slots
    tl.store(values_ptr + outputs, value, slots < k)
    tl.store(indices_ptr + outputs, tl.where(filled, index, -1), slots < k)


def _launch(scores: Tensor, cu_seqlens: Tensor, k: int, max_length: int) -> tuple[Tensor, Tensor]:
    """Operands are contiguous; returns what `segmented_topk` does."""
    values, indices = _outputs(scores, cu_seqlens, k)
    if values.numel() > 0:
        _segmented_topk_kernel[(values.shape[0],)](
            values, indices, scores, cu_seqlens, k, **block_sizes(max_length)
        )
    return values, indices


def _outputs(
    scores: Tensor, cu_seqlens: Tensor, k: int, max_length: int = 0
) -> tuple[Tensor, Tensor]:
    shape = (cu_seqlens.shape[0] - 1, k)
    values = scores.new_empty(shape, dtype=torch.float32)
    return values, scores.new_empty(shape, dtype=torch.int64)


_launch_segmented_topk = Operator("fairslate::segmented_topk", _launch, _outputs)


def block_sizes(max_length: int) -> dict[str, int]:
    """The sorted width and its warps: eight keys a thread, or one warp."""
    block = max(2, triton.next_power_of_2(max_length))
    return {"BLOCK": block, "num_warps": max(1, min(8, block // 128))}


def segmented_topk(
    scores: Tensor, cu_seqlens: Tensor, k: int, *, max_length: int, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Best scores (S, k) float32 and their indices (S, k) int64 within each segment.

    scores (T,) of any float dtype; cu_seqlens (S + 1,) int32 or int64, non-decreasing, from 0 to T;
    max_length: the longest segment's length or a bound on it, up to 1024 and at least k; the caller
    knows it, finding it on the device would wait for it. A segment with fewer than k scores is
    filled up with -inf and index -1. k = max_length sorts. Raises ValueError or TypeError naming
    the operand, BackendUnavailableError as `choose_backend` does.
    """
    check_shape("scores", scores, ("scores",))
    check_dtype("scores", scores, FLOATS)
    check_shape("cu_seqlens", cu_seqlens, ("segments + 1",))
    check_dtype("cu_seqlens", cu_seqlens, (torch.int32, torch.int64))
    check_same_device(scores=scores, cu_seqlens=cu_seqlens)
    if cu_seqlens.shape[0] == 0:
        raise ValueError("cu_seqlens is empty; it must hold one bound more than there are segments")
    if not 1 <= max_length <= MAX_LENGTH:
        raise ValueError(f"max_length is {max_length}; pass 1 to {MAX_LENGTH}")
    if not 1 <= k <= max_length:
        raise ValueError(f"k is {k}; pass 1 to max_length, which is {max_length}")
    if choose_backend(backend, scores) == "torch":
        return segmented_topk_reference(scores, cu_seqlens, k, max_length)
    return _launch_segmented_topk(scores.contiguous(), cu_seqlens.contiguous(), k, max_length)


def cost(scores: Tensor, cu_seqlens: Tensor, k: int) -> Cost:
    """Each score read once, value and index written; comparisons count as no operation."""
    return Cost(scores.nbytes + cu_seqlens.nbytes + (cu_seqlens.shape[0] - 1) * k * 12, 0)


def variants() -> list[Variant]:
    """A slate of 16, of 100 and of the longest length."""
    return [_variant(length) for length in (16, 128, MAX_LENGTH)]


def _variant(max_length: int) -> Variant:
    sizes = block_sizes(max_length)
    signature = {
        "values_ptr": "*fp32",
        "indices_ptr": "*i64",
        "scores_ptr": "*fp32",
        "cu_seqlens_ptr": "*i32",
        "k": "i32",
        "BLOCK": "constexpr",
    }
    warps = sizes.pop("num_warps")
    return Variant(
        _segmented_topk_kernel, signature, sizes, num_warps=warps, shape=f"N={max_length} fp32"
    )
