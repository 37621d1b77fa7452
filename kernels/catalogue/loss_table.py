"""Operands and rivals in plain torch for losses over a vocabulary. Computes nothing itself."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.base.variant import Cost
from kernels.catalogue.operation import Draw, Operands, Operation, wide
from kernels.catalogue.shapes import LLAMA32_1B, ModelShape

LOSS_TOKENS = (2048, 8192, 16_384)


def _cross_entropy(draw: Draw, model: ModelShape, tokens: int) -> Operands:
    return {
        "logits": draw.normal(tokens, model.vocabulary, scale=3.0),
        "targets": draw.below(model.vocabulary, tokens),
    }


def _cross_entropy_in_place(draw: Draw, model: ModelShape, tokens: int) -> Operands:
    """The gradient takes the logits' place, as Liger's does."""
    return _cross_entropy(draw, model, tokens) | {"inplace": True}


def _plain_cross_entropy(logits: Tensor, targets: Tensor, inplace: bool = False) -> Tensor:
    return F.cross_entropy(wide(logits), targets)


def _cross_entropy_cost(module: Any, operands: Operands, backward: bool) -> Cost:
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


def _linear_cost(module: Any, operands: Operands, backward: bool) -> Cost:
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


def _divergence_cost(module: Any, operands: Operands, backward: bool) -> Cost:
    student, teacher = operands["student_logits"], operands["teacher_logits"]
    read = student.nbytes + teacher.nbytes
    return Cost(
        read + (student.nbytes if backward else 0), (8 if backward else 14) * student.numel()
    )


def _linear_distillation_cost(module: Any, operands: Operands, backward: bool) -> Cost:
    student, head = operands["student_hidden"], operands["student_weight"]
    teacher, other = operands["teacher_hidden"], operands["teacher_weight"]
    products = 2 * student.shape[0] * head.numel()
    if backward:
        return Cost(2 * (student.nbytes + head.nbytes), 2 * products)
    moved = sum(tensor.nbytes for tensor in (student, head, teacher, other))
    return Cost(moved, products + 2 * teacher.shape[0] * other.numel())


def _sparse_distillation(draw: Draw, model: ModelShape, tokens: int) -> Operands:
    """The teacher kept 64 log-probabilities a token, of columns that differ within a row."""
    kept = min(64, model.vocabulary // 8)
    first = draw.below(model.vocabulary, tokens, 1)
    steps = 7 * torch.arange(kept, device=draw.device)
    return {
        "student_hidden": draw.normal(tokens, model.hidden),
        "student_weight": draw.weight(model.vocabulary, model.hidden),
        "teacher_outcomes": (first + steps) % model.vocabulary,
        "teacher_scores": draw.normal(tokens, kept + 1).float().log_softmax(-1)[:, :kept],
    }


def _plain_sparse_distillation(
    student_hidden: Tensor,
    student_weight: Tensor,
    teacher_outcomes: Tensor,
    teacher_scores: Tensor,
) -> Tensor:
    """KL divergence on the kept outcomes and, as one more, all the rest."""
    log_q = wide(F.linear(student_hidden, student_weight)).log_softmax(-1)
    rest_q = log_q.scatter(1, teacher_outcomes, -math.inf).logsumexp(-1, keepdim=True)
    rest_p = torch.log1p(-teacher_scores.exp().sum(-1, keepdim=True))
    log_q = torch.cat((log_q.gather(1, teacher_outcomes), rest_q), dim=-1)
    log_p = torch.cat((teacher_scores, rest_p), dim=-1).to(log_q.dtype)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def _student_cost(module: Any, operands: Operands, backward: bool) -> Cost:
    hidden, weight = operands["student_hidden"], operands["student_weight"]
    return _linear_cost(module, {"hidden": hidden, "weight": weight}, backward)


LOSSES = (
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
        "cross_entropy",
        _cross_entropy_in_place,
        variant="in place",
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
        lead=LLAMA32_1B,
        sizes=("hidden", "vocabulary"),
        tokens=LOSS_TOKENS,
        reference=_plain_linear_distillation,
        priced=_linear_distillation_cost,
    ),
    Operation(
        "sparse_distillation",
        _sparse_distillation,
        trained=("student_hidden", "student_weight"),
        sizes=("hidden", "vocabulary"),
        tokens=(2048, 8192),
        reference=_plain_sparse_distillation,
        priced=_student_cost,
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
