"""Divergence of rows of student logits from a teacher's, with its gradient. Knows no autograd.

    D    = divergence_terms of p = softmax(teacher / T), q = softmax(student / T)
    loss = soft T^2 D + hard (log sum exp(student) - student[target]),  see divergence_mix
    d loss / d student_j = soft T (s_j - q_j sum s) + hard (softmax(student)_j - [j = target])

One pass over both rows takes their log-sum-exps. forward_kl, whose sum of s is
-1, makes a second one for loss and gradient; the others need a pass for loss and sum of s, and a
third for the gradient. So 2 (or 3) reads of both rows and a write of the student's; all float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.base.dispatch import jit, tl, triton
from kernels.base.variant import Variant
from kernels.losses.divergence_mix import Mix, distillation_rows_in_torch
from kernels.losses.divergence_terms import MIXTURES, divergence_terms
from kernels.losses.online_softmax import LOWEST, merge_apart, take_in, take_in_power

BLOCK = 2048
WARPS = 8
# Of a row: maximum and log-sum of teacher / T and of student / T, log-sum of student, sum of s.
STATISTICS = 6


@jit
def _log_pair(
    student: tl.tensor,
    teacher: tl.tensor,
    columns: tl.tensor,
    student_size: int,
    teacher_size: int,
    rate: float,
) -> tl.tensor:
    """Both rows' logits over T, -inf where there are none."""
    x = tl.load(student + columns, columns < student_size, float("-inf")).to(tl.float32)
    y = tl.load(teacher + columns, columns < teacher_size, float("-inf")).to(tl.float32)
    return x * rate, y * rate


@jit
def _distillation_kernel(
    losses_ptr: tl.tensor,
    statistics_ptr: tl.tensor,
    gradient_ptr: tl.tensor,
    gradient_row_stride: int,
    student_ptr: tl.tensor,
    student_row_stride: int,
    teacher_ptr: tl.tensor,
    teacher_row_stride: int,
    targets_ptr: tl.tensor,
    weights_ptr: tl.tensor,
    weights_step: int,
    student_size: int,
    teacher_size: int,
    temperature: float,
    mixture: float,
    soft_weight: float,
    hard_weight: float,
    ignore_index: int,
    KIND: tl.constexpr,
    HAS_TARGETS: tl.constexpr,
    HAS_HARD: tl.constexpr,
    TEMPERED: tl.constexpr,
    LOSSES: tl.constexpr,
    GRADIENT: tl.constexpr,
    LOWEST: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    # One program per row: losses alone, the gradient alone from kept statistics, or both at once.
    row = tl.program_id(0).to(tl.int64)
    student = student_ptr + row * student_row_stride
    teacher = teacher_ptr + row * teacher_row_stride
    statistics = statistics_ptr + row * 6
    student_read = student_size
    teacher_read = teacher_size
    target = -1
    if HAS_TARGETS:
        target = tl.load(targets_ptr + row)
        student_read = tl.where(target == ignore_index, 0, student_size)  # ignored: never read
        teacher_read = tl.where(target == ignore_index, 0, teacher_size)
    lanes = tl.arange(0, BLOCK)
    rate = 1.0 / temperature
    divergence = tl.zeros((BLOCK,), tl.float32)
    if LOSSES:
        if HAS_HARD:
            # A target outside the vocabulary is never read and makes the loss NaN.
            named = (target >= 0) & (target < student_read)
            picked = tl.load(student + target, named, float("nan")).to(tl.float32)
        student_top = tl.full((BLOCK,), LOWEST, tl.float32)
        teacher_top = tl.full((BLOCK,), LOWEST, tl.float32)
        student_sum = tl.zeros((BLOCK,), tl.float32)
        teacher_sum = tl.zeros((BLOCK,), tl.float32)
        hard_sum = tl.zeros((BLOCK,), tl.float32)
        for start in range(0, student_read, BLOCK):
            x, y = _log_pair(student, teacher, start + lanes, student_read, teacher_read, rate)
            if HAS_HARD and TEMPERED:
                hard_sum = take_in_power(x, student_top, hard_sum, temperature)
            student_top, student_sum = take_in(x, student_top, student_sum)
            teacher_top, teacher_sum = take_in(y, teacher_top, teacher_sum)
        if HAS_HARD and TEMPERED:
            _hard_top, hard_log = merge_apart(student_top * temperature, hard_sum)
        student_top, student_log = merge_apart(student_top, student_sum)
        teacher_top, teacher_log = merge_apart(teacher_top, teacher_sum)
        if not (HAS_HARD and TEMPERED):
            hard_log = student_log
        mean_slope = -1.0
        if not (KIND == "forward_kl" and GRADIENT):
            slopes = tl.zeros((BLOCK,), tl.float32)
            for start in range(0, student_read, BLOCK):
                x, y = _log_pair(student, teacher, start + lanes, student_read, teacher_read, rate)
                log_p = y - teacher_top - teacher_log
                log_q = x - student_top - student_log
                q, terms, slope = divergence_terms(log_p, log_q, mixture, KIND)
                divergence += terms
                slopes += slope
            mean_slope = tl.sum(slopes, axis=0)
        if not GRADIENT:
            counted = student_read > 0
            tl.store(statistics, tl.where(counted, teacher_top, 0.0))
            tl.store(statistics + 1, tl.where(counted, teacher_log, 0.0))
            tl.store(statistics + 2, tl.where(counted, student_top, 0.0))
            tl.store(statistics + 3, tl.where(counted, student_log, 0.0))
            tl.store(statistics + 4, tl.where(counted, hard_log, 0.0))
            tl.store(statistics + 5, tl.where(counted, mean_slope, 0.0))
    else:
        teacher_top = tl.load(statistics).to(tl.float32)
        teacher_log = tl.load(statistics + 1).to(tl.float32)
        student_top = tl.load(statistics + 2).to(tl.float32)
        student_log = tl.load(statistics + 3).to(tl.float32)
        hard_log = tl.load(statistics + 4).to(tl.float32)
        mean_slope = tl.load(statistics + 5).to(tl.float32)
    if GRADIENT:
        weight = tl.load(weights_ptr + row * weights_step).to(tl.float32)
        soft = weight * soft_weight * temperature
        hard = weight * hard_weight
        outputs = gradient_ptr + row * gradient_row_stride
        for start in range(0, student_read, BLOCK):
            columns = start + lanes
            x, y = _log_pair(student, teacher, columns, student_read, teacher_read, rate)
            log_p = y - teacher_top - teacher_log
            log_q = x - student_top - student_log
            q, terms, slope = divergence_terms(log_p, log_q, mixture, KIND)
            if LOSSES and KIND == "forward_kl":
                divergence += terms
            gradient = soft * (slope - q * mean_slope)
            if HAS_HARD:
                if TEMPERED:
                    q = tl.exp((x - student_top) * temperature - hard_log)
                gradient += hard * (q - tl.where(columns == target, 1.0, 0.0))
            tl.store(outputs + columns, gradient, columns < student_read)
        for start in range(student_read, student_size, BLOCK):
            nothing = tl.zeros((BLOCK,), tl.float32)
            tl.store(outputs + start + lanes, nothing, start + lanes < student_size)
    if LOSSES:
        loss = soft_weight * temperature * temperature * tl.sum(divergence, axis=0)
        if HAS_HARD:
            loss += hard_weight * (hard_log - (picked - student_top * temperature))
        tl.store(losses_ptr + row, tl.where(student_read > 0, loss, 0.0))


def block_sizes(vocabulary: int) -> dict[str, int]:
    """Eight values a thread: up to six accumulators of each still fit its registers."""
    block = min(BLOCK, triton.next_power_of_2(vocabulary))
    return {"BLOCK": block, "num_warps": max(1, min(WARPS, block // 256))}


def launch_distillation(
    losses: Tensor | None,
    statistics: Tensor,
    gradient: Tensor | None,
    student: Tensor,
    teacher: Tensor,
    targets: Tensor | None,
    weights: Tensor | None,
    mix: Mix,
) -> None:
    """Fills losses (N,) float32; what else the gradient needs is left in statistics (N, 6) float32.

    Without `losses` the statistics are read, without `gradient` they are written.

    `weights` (N,) float32, of any stride, multiply the rows of `gradient`, which may be `student`.
    The rows of both logits are contiguous, the teacher's no longer than the student's.
    """
    if student.shape[0] == 0:
        return
    _distillation_kernel[(student.shape[0],)](
        losses,
        statistics,
        gradient,
        0 if gradient is None else gradient.stride(0),
        student,
        student.stride(0),
        teacher,
        teacher.stride(0),
        targets,
        weights,
        0 if weights is None else weights.stride(0),
        student.shape[1],
        teacher.shape[1],
        mix.temperature,
        mix.mixture,
        mix.soft_weight,
        mix.hard_weight,
        mix.ignore_index,
        KIND=mix.kind,
        HAS_TARGETS=targets is not None,
        HAS_HARD=mix.hard_weight != 0.0,
        TEMPERED=mix.temperature != 1.0,
        LOSSES=losses is not None,
        GRADIENT=gradient is not None,
        LOWEST=LOWEST,
        **block_sizes(student.shape[1]),
    )


def distillation_rows(
    student: Tensor,
    teacher: Tensor,
    targets: Tensor | None,
    weights: Tensor | None,
    mix: Mix,
    backend: str,
) -> Tensor:
    """Losses (N,); with `weights` (N,) also puts weights * d loss / d student over `student`.

    student (N, V), teacher (N, at most V), rows contiguous. `backend` is "triton" or "torch".
    """
    if backend == "torch":
        return distillation_rows_in_torch(student, teacher, targets, weights, mix)
    losses = student.new_empty(student.shape[:1], dtype=torch.float32)
    gradient = None if weights is None else student
    statistics = losses.new_empty((losses.shape[0] if gradient is None else 0, STATISTICS))
    launch_distillation(losses, statistics, gradient, student, teacher, targets, weights, mix)
    return losses


def variants() -> list[Variant]:
    """Every divergence with all its parts as fused losses run it; forward_kl's passes alone."""
    made = [_variant(Mix(kind, 0.5, 2.0, 0.9, 0.1), "bf16", True, True) for kind in MIXTURES]
    passes = ((True, True), (True, False), (False, True))
    return [*made, *(_variant(Mix(), "bf16", losses, gradient) for losses, gradient in passes)]


def _variant(mix: Mix, dtype: str, losses: bool, gradient: bool) -> Variant:
    sizes, vocabulary = block_sizes(151_936), 151_936
    signature = dict.fromkeys(("losses_ptr", "statistics_ptr", "weights_ptr"), "*fp32")
    signature |= dict.fromkeys(("gradient_ptr", "student_ptr", "teacher_ptr"), f"*{dtype}")
    strides = ("gradient_row_stride", "student_row_stride", "teacher_row_stride")
    integers = ("weights_step", "student_size", "teacher_size", "ignore_index", *strides)
    signature |= {"targets_ptr": "*i64"} | dict.fromkeys(integers, "i32")
    scalars = ("temperature", "mixture", "soft_weight", "hard_weight")
    signature |= dict.fromkeys(scalars, "fp32")
    constants = {
        "KIND": mix.kind,
        "HAS_TARGETS": True,
        "HAS_HARD": mix.hard_weight != 0.0,
        "TEMPERED": mix.temperature != 1.0,
        "LOSSES": losses,
        "GRADIENT": gradient,
        "LOWEST": LOWEST,
        "BLOCK": sizes["BLOCK"],
    }
    signature |= dict.fromkeys(constants, "constexpr")
    what = "+".join(
        ["losses"] * losses + ["gradient"] * gradient + ["hard"] * bool(mix.hard_weight)
    )
    shape = f"V={vocabulary} {dtype} {mix.kind} {what}"
    return Variant(_distillation_kernel, signature, constants, sizes["num_warps"], shape=shape)
