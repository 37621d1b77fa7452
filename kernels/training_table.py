"""Operands and rivals in plain torch for the operations of training. Computes nothing itself."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.catalogue import Draw, Operands, Operation
from kernels.shapes import ModelShape
from kernels.variant import Cost

EPS = 1e-6
LOSS_TOKENS = (2048, 8192, 16_384)


def wide(x: Tensor) -> Tensor:
    """At least fp32, as losses and norms are computed."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _rms_norm(draw: Draw, model: ModelShape, tokens: int) -> Operands:
    return {
        "x": draw.normal(tokens, model.hidden),
        "weight": draw.normal(model.hidden, scale=0.1, shift=1.0),
        "eps": EPS,
    }


def _add_rms_norm(draw: Draw, model: ModelShape, tokens: int) -> Operands:
    return {"residual": draw.normal(tokens, model.hidden), **_rms_norm(draw, model, tokens)}


def _norm_cost(module: object, operands: Operands, backward: bool) -> Cost:
    from kernels.norm import cost

    x, add = operands["x"], "residual" in operands
    return cost(x.shape[0], x.shape[1], x.element_size(), add=add, backward=backward)


def _cross_entropy(draw: Draw, model: ModelShape, tokens: int) -> Operands:
    return {
        "logits": draw.normal(tokens, model.vocabulary, scale=3.0),
        "targets": draw.below(model.vocabulary, tokens),
    }


def _plain_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(wide(logits), targets)


def _cross_entropy_cost(module: object, operands: Operands, backward: bool) -> Cost:
    logits = operands["logits"]
    passes, per_value = (2, 3) if backward else (1, 4)
    return Cost(passes * logits.nbytes, per_value * logits.numel())


def _linear_cross_entropy(draw: Draw, model: ModelShape, tokens: int) -> Operands:
    return {
        "hidden": draw.normal(tokens, model.hidden),
        "weight": draw.weight(model.vocabulary, model.hidden),
        "targets": draw.below(model.vocabulary, tokens),
    }


def _plain_linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(wide(F.linear(hidden, weight)), targets)


def _linear_cost(module: object, operands: Operands, backward: bool) -> Cost:
    """Products of a head: one forward, two backward; each operand and gradient moved once."""
    hidden, weight = operands["hidden"], operands["weight"]
    products = 2 * hidden.shape[0] * weight.numel()
    return Cost(hidden.nbytes + weight.nbytes, (2 if backward else 1) * products)


def _linear_distillation(draw: Draw, model: ModelShape, tokens: int) -> Operands:
    """The teacher is twice as wide as the student."""
    return {
        "student_hidden": draw.normal(tokens, model.hidden),
        "student_weight": draw.weight(model.vocabulary, model.hidden),
        "teacher_hidden": draw.normal(tokens, 2 * model.hidden),
        "teacher_weight": draw.weight(model.vocabulary, 2 * model.hidden),
        "kind": "jsd",
    }


def _plain_linear_distillation(
    student_hidden: Tensor,
    student_weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    kind: str,
) -> Tensor:
    with torch.no_grad():
        teacher_logits = F.linear(teacher_hidden, teacher_weight)
    return plain_divergence(F.linear(student_hidden, student_weight), teacher_logits, kind)


def _divergence(kind: str, draw: Draw, model: ModelShape, tokens: int) -> Operands:
    return {
        "student_logits": draw.normal(tokens, model.vocabulary, scale=2.0),
        "teacher_logits": draw.normal(tokens, model.vocabulary, scale=2.0),
        "kind": kind,
    }


def plain_divergence(student_logits: Tensor, teacher_logits: Tensor, kind: str) -> Tensor:
    """The mean over tokens of KL(teacher | student), or of the Jensen-Shannon divergence."""
    log_q = wide(student_logits).log_softmax(-1)
    log_p = wide(teacher_logits).log_softmax(-1)
    if kind == "forward_kl":
        return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    parts = [F.kl_div(log_m, x, reduction="batchmean", log_target=True) for x in (log_p, log_q)]
    return (parts[0] + parts[1]) / 2


def _divergence_cost(module: object, operands: Operands, backward: bool) -> Cost:
    student, teacher = operands["student_logits"], operands["teacher_logits"]
    read = student.nbytes + teacher.nbytes
    return Cost(
        read + (student.nbytes if backward else 0), (8 if backward else 14) * student.numel()
    )


def _linear_distillation_cost(module: object, operands: Operands, backward: bool) -> Cost:
    student, head = operands["student_hidden"], operands["student_weight"]
    teacher, other = operands["teacher_hidden"], operands["teacher_weight"]
    products = 2 * student.shape[0] * head.numel()
    if backward:
        return Cost(2 * (student.nbytes + head.nbytes), 2 * products)
    moved = sum(tensor.nbytes for tensor in (student, head, teacher, other))
    return Cost(moved, products + 2 * teacher.shape[0] * other.numel())


TRAINING = (
    Operation(
        "rms_norm", _rms_norm, trained=("x", "weight"), module_name="norm", priced=_norm_cost
    ),
    Operation(
        "add_rms_norm",
        _add_rms_norm,
        trained=("x", "residual", "weight"),
        module_name="norm",
        priced=_norm_cost,
    ),
    Operation(
        "cross_entropy",
        _cross_entropy,
        trained=("logits",),
        sizes=("vocabulary",),
        tokens=LOSS_TOKENS,
        reference=_plain_cross_entropy,
        priced=_cross_entropy_cost,
    ),
    Operation(
        "linear_cross_entropy",
        _linear_cross_entropy,
        trained=("hidden", "weight"),
        sizes=("hidden", "vocabulary"),
        tokens=LOSS_TOKENS,
        reference=_plain_linear_cross_entropy,
        priced=_linear_cost,
    ),
    Operation(
        "linear_distillation",
        _linear_distillation,
        variant="jsd",
        trained=("student_hidden", "student_weight"),
        sizes=("hidden", "vocabulary"),
        tokens=LOSS_TOKENS,
        reference=_plain_linear_distillation,
        priced=_linear_distillation_cost,
    ),
    *(
        Operation(
            "divergence",
            partial(_divergence, kind),
            variant=kind,
            trained=("student_logits",),
            sizes=("vocabulary",),
            tokens=(2048, 8192),
            reference=plain_divergence,
            priced=_divergence_cost,
        )
        for kind in ("forward_kl", "jsd")
    ),
)
