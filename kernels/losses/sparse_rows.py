"""Losses and gradients of rows of logits on a teacher's kept outcomes. Knows no autograd.

The formula is that of `sparse_mix`. The kept logits are taken out of the row (-inf is put there),
which makes the rest's sum a plain pass; a second pass writes the gradient, and the kept outcomes'
own goes on top. 2 reads and a write of V values, 12 bytes a kept outcome; all float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.base.dispatch import jit, tl, triton
from kernels.base.variant import Variant
from kernels.losses.divergence_terms import divergence_terms
from kernels.losses.online_softmax import LOWEST, merge, take_in
from kernels.losses.sparse_mix import Kept, Mix, sparse_rows_in_torch

BLOCK = 4096
WARPS = 8
MAX_KEPT = 256
MAX_TEMPERATURES = 4


@jit
def _log_softmax(x: tl.tensor) -> tl.tensor:
    top = tl.max(x, axis=0)
    return x - top - tl.log(tl.sum(tl.exp(x - top), axis=0))


@jit
def _sparse_kernel(
    losses_ptr: tl.tensor,
    student_ptr: tl.tensor,
    student_row_stride: int,
    scores_ptr: tl.tensor,
    outcomes_ptr: tl.tensor,
    targets_ptr: tl.tensor,
    weights_ptr: tl.tensor,
    weights_step: int,
    student_size: int,
    kept_count: int,
    temperature_0: float,
    temperature_1: float,
    temperature_2: float,
    temperature_3: float,
    mixture: float,
    soft_weight: float,
    hard_weight: float,
    ignore_index: int,
    KIND: tl.constexpr,
    TEMPERATURES: tl.constexpr,
    HAS_TARGETS: tl.constexpr,
    HAS_HARD: tl.constexpr,
    GRADIENT: tl.constexpr,
    LOWEST: tl.constexpr,
    BLOCK_KEPT: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    # One program per row.
    row = tl.program_id(0).to(tl.int64)
    student = student_ptr + row * student_row_stride
    read_size = student_size
    target = -1
    if HAS_TARGETS:
        target = tl.load(targets_ptr + row)
        read_size = tl.where(target == ignore_index, 0, student_size)  # ignored: never read
    lanes = tl.arange(0, BLOCK)
    slots = tl.arange(0, BLOCK_KEPT)
    outcome = tl.load(outcomes_ptr + row * kept_count + slots, slots < kept_count, -1)
    there = (outcome >= 0) & (outcome < read_size)
    picked = tl.load(student + outcome, there, float("-inf")).to(tl.float32)
    if HAS_HARD:
        # A target outside the vocabulary is never read and makes the loss NaN.
        named = (target >= 0) & (target < read_size)
        named_logit = tl.load(student + target, named, float("nan")).to(tl.float32)
    tl.debug_barrier()  # every thread has read the kept logits before one takes them out
    tl.store(student + outcome, tl.full((BLOCK_KEPT,), float("-inf"), tl.float32), there)
    tl.debug_barrier()  # and they are out before any thread sums the rest
    highest = tl.full((BLOCK,), LOWEST, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, read_size, BLOCK):
        columns = start + lanes
        x = tl.load(student + columns, columns < read_size, float("-inf")).to(tl.float32)
        highest, total = take_in(x, highest, total)
    rest = merge(highest, total)
    is_rest = slots == kept_count
    scores = tl.load(scores_ptr + row * (kept_count + 1) + slots, there | is_rest, float("-inf"))
    scores = scores.to(tl.float32)
    outcomes = tl.where(is_rest, rest, picked)
    scores = tl.where(outcomes > LOWEST, scores, float("-inf"))
    loss = 0.0
    slopes = tl.zeros((BLOCK_KEPT,), tl.float32)
    for index in tl.static_range(TEMPERATURES):
        temperature = temperature_0
        if index == 1:
            temperature = temperature_1
        if index == 2:
            temperature = temperature_2
        if index == 3:
            temperature = temperature_3
        log_p = _log_softmax(scores / temperature)
        log_q = _log_softmax(outcomes / temperature)
        q, terms, slope = divergence_terms(log_p, log_q, mixture, KIND)
        loss += temperature * temperature * tl.sum(terms, axis=0)
        slopes += temperature * (slope - q * tl.sum(slope, axis=0))
    loss *= soft_weight / TEMPERATURES
    slopes *= soft_weight / TEMPERATURES
    lse = 0.0
    if HAS_HARD:
        top = tl.max(outcomes, axis=0)
        lse = top + tl.log(tl.sum(tl.exp(outcomes - top), axis=0))
        loss += hard_weight * (lse - named_logit)
    tl.store(losses_ptr + row, tl.where(read_size > 0, loss, 0.0))
    if GRADIENT:
        weight = tl.load(weights_ptr + row * weights_step).to(tl.float32)
        share = weight * tl.sum(tl.where(is_rest, slopes, 0.0), axis=0)
        hard = weight * hard_weight
        rest = tl.where(rest > LOWEST, rest, 0.0)
        for start in range(0, student_size, BLOCK):
            columns = start + lanes
            x = tl.load(student + columns, columns < read_size, float("-inf")).to(tl.float32)
            gradient = share * tl.exp(x - rest)
            if HAS_HARD:
                gradient += hard * (tl.exp(x - lse) - tl.where(columns == target, 1.0, 0.0))
            gradient = tl.where(columns < read_size, gradient, 0.0)
            tl.store(student + columns, gradient, columns < student_size)
        tl.debug_barrier()  # the kept outcomes' own gradient replaces what the pass left there
        gradient = weight * slopes
        if HAS_HARD:
            gradient += hard * (tl.exp(picked - lse) - tl.where(outcome == target, 1.0, 0.0))
        tl.store(student + outcome, gradient, there)


def block_sizes(vocabulary: int, kept: int) -> dict[str, int]:
    """Sixteen values of the row a thread, and the kept outcomes with the rest in one block."""
    block = min(BLOCK, triton.next_power_of_2(vocabulary))
    warps = max(1, min(WARPS, block // 512))
    return {"BLOCK": block, "BLOCK_KEPT": triton.next_power_of_2(kept + 1), "num_warps": warps}


def sparse_rows(
    student: Tensor,
    kept: Kept,
    temperatures: list[float],
    targets: Tensor | None,
    weights: Tensor | None,
    mix: Mix,
    backend: str,
) -> Tensor:
    """Losses (N,); with `weights` (N,) also puts weights * d loss / d student over `student`.

    student (N, V) with contiguous rows is spoiled either way; kept holds contiguous tensors, up to
    MAX_KEPT outcomes, each once; up to MAX_TEMPERATURES temperatures. `backend` is "triton" or
    "torch".
    """
    if backend == "torch":
        return sparse_rows_in_torch(student, kept, temperatures, targets, weights, mix)
    losses = student.new_empty(student.shape[:1], dtype=torch.float32)
    if student.shape[0] == 0:
        return losses
    _sparse_kernel[(student.shape[0],)](
        losses,
        student,
        student.stride(0),
        kept.scores,
        kept.outcomes,
        targets,
        weights,
        0 if weights is None else weights.stride(0),
        student.shape[1],
        kept.outcomes.shape[1],
        *temperatures,
        *[1.0] * (MAX_TEMPERATURES - len(temperatures)),
        mix.mixture,
        mix.soft_weight,
        mix.hard_weight,
        mix.ignore_index,
        KIND=mix.kind,
        TEMPERATURES=len(temperatures),
        HAS_TARGETS=targets is not None,
        HAS_HARD=mix.hard_weight != 0.0,
        GRADIENT=weights is not None,
        LOWEST=LOWEST,
        **block_sizes(student.shape[1], kept.outcomes.shape[1]),
    )
    return losses


def variants() -> list[Variant]:
    """64 kept outcomes with all parts at two temperatures, and the most with the fewest parts."""
    kinds = ("forward_kl", "jsd", "skew_reverse_kl")
    made = [_variant(Mix(kind, 0.5, 0.9, 0.1, -100), 64, 2) for kind in kinds]
    return [*made, _variant(Mix("forward_kl", 0.0, 1.0, 0.0, -100), MAX_KEPT, 1)]


def _variant(mix: Mix, kept: int, temperatures: int) -> Variant:
    sizes = block_sizes(151_936, kept)
    signature = dict.fromkeys(("losses_ptr", "scores_ptr", "weights_ptr"), "*fp32")
    signature |= {"student_ptr": "*bf16", "outcomes_ptr": "*i64", "targets_ptr": "*i64"}
    integers = ("student_row_stride", "weights_step", "student_size", "kept_count", "ignore_index")
    scalars = [f"temperature_{i}" for i in range(MAX_TEMPERATURES)]
    scalars += ["mixture", "soft_weight", "hard_weight"]
    signature |= dict.fromkeys(integers, "i32") | dict.fromkeys(scalars, "fp32")
    constants = {
        "KIND": mix.kind,
        "TEMPERATURES": temperatures,
        "HAS_TARGETS": True,
        "HAS_HARD": mix.hard_weight != 0.0,
        "GRADIENT": True,
        "LOWEST": LOWEST,
        "BLOCK_KEPT": sizes["BLOCK_KEPT"],
        "BLOCK": sizes["BLOCK"],
    }
    signature |= dict.fromkeys(constants, "constexpr")
    shape = f"V=151936 k={kept} bf16 {mix.kind}" + " hard" * bool(mix.hard_weight)
    return Variant(_sparse_kernel, signature, constants, sizes["num_warps"], shape=shape)
