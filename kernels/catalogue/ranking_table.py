"""Operands and rivals in plain torch for losses of ranking. Computes nothing itself."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.base.variant import Cost
from kernels.catalogue.operation import Draw, Operands, Operation, wide
from kernels.catalogue.shapes import ModelShape
from kernels.losses.ranking_terms import KINDS, ranking_loss_reference

GROUP = 97
LABELS = 5


def _ranking_loss(kind: str, draw: Draw, model: ModelShape, tokens: int) -> Operands:
    """Groups of 97 and one of what is left; grades from 0 to 4 for lambdaloss."""
    grades = kind == "lambdaloss"
    return {
        "scores": draw.normal(tokens),
        "targets": draw.below(5, tokens).to(draw.dtype) if grades else draw.normal(tokens),
        "offsets": draw.integers([*range(0, tokens, GROUP), tokens]),
        "max_length": GROUP,
        "kind": kind,
    }


def _loop(scores: Tensor, targets: Tensor, offsets: Tensor, max_length: int, kind: str) -> Tensor:
    """Group by group."""
    return ranking_loss_reference(scores, targets, offsets, kind).mean()


def _padded(scores: Tensor, targets: Tensor, offsets: Tensor, max_length: int, kind: str) -> Tensor:
    """What one writes for a GPU: all groups padded to the longest and masked."""
    starts, lengths = offsets[:-1, None].long(), offsets.diff()[:, None]
    slots = torch.arange(max_length, device=scores.device)
    inside = slots < lengths
    cells = torch.where(inside, starts + slots, 0)
    s, t = wide(scores)[cells], wide(targets)[cells]
    if kind == "listnet":
        s, t = (x.masked_fill(~inside, -math.inf) for x in (s, t))
        products = t.softmax(-1) * s.log_softmax(-1).masked_fill(~inside, 0.0)
        return -products.sum(-1).mean()
    pairs = inside[:, :, None] & inside[:, None, :]
    s_gaps, t_gaps = (x[:, :, None] - x[:, None, :] for x in (s, t))
    if kind == "margin_mse":
        sums = ((s_gaps - t_gaps).square() * pairs).sum((1, 2))
        return (sums / (lengths * (lengths - 1)).squeeze(1).clamp_min(1)).mean()
    better = pairs & (t_gaps > 0)
    return ((F.softplus(-s_gaps) * better).sum((1, 2)) / better.sum((1, 2)).clamp_min(1)).mean()


def _ranking_cost(module: Any, operands: Operands, backward: bool) -> Cost:
    """Scores and targets read and losses written, then the gradient; few values, many pairs."""
    scores, groups = operands["scores"], operands["offsets"].shape[0]
    moved = scores.nbytes if backward else 2 * scores.nbytes
    return Cost(moved + 4 * groups, 0)


def _label_distillation(draw: Draw, model: ModelShape, tokens: int) -> Operands:
    """Five labels spread over the vocabulary."""
    step = model.vocabulary // LABELS
    return {
        "student_hidden": draw.normal(tokens, model.hidden),
        "student_weight": draw.weight(model.vocabulary, model.hidden),
        "label_ids": draw.integers(list(range(1, LABELS * step, step)), torch.int64),
        "teacher_scores": draw.normal(tokens, LABELS),
    }


def _plain_label_distillation(
    student_hidden: Tensor, student_weight: Tensor, label_ids: Tensor, teacher_scores: Tensor
) -> Tensor:
    logits = wide(student_hidden) @ wide(student_weight[label_ids]).T
    log_p = wide(teacher_scores).log_softmax(-1)
    return F.kl_div(logits.log_softmax(-1), log_p, reduction="batchmean", log_target=True)


def _whole_vocabulary_distillation(
    student_hidden: Tensor, student_weight: Tensor, label_ids: Tensor, teacher_scores: Tensor
) -> Tensor:
    """The model's own head, of whose logits the labels' are picked."""
    logits = wide(F.linear(student_hidden, student_weight)[:, label_ids])
    log_p = wide(teacher_scores).log_softmax(-1)
    return F.kl_div(logits.log_softmax(-1), log_p, reduction="batchmean", log_target=True)


def _label_cost(module: Any, operands: Operands, backward: bool) -> Cost:
    hidden, labels = operands["student_hidden"], operands["label_ids"].shape[0]
    products = 2 * labels * hidden.numel()
    return Cost(hidden.nbytes, 2 * products if backward else products)


RANKING = (
    *(
        Operation(
            "ranking_loss",
            partial(_ranking_loss, kind),
            variant=kind,
            trained=("scores",),
            sizes=(),
            tokens=(8192,),
            reference=_loop,
            eager=_loop if kind == "lambdaloss" else _padded,
            compiles=kind != "lambdaloss",
            priced=_ranking_cost,
        )
        for kind in KINDS
    ),
    Operation(
        "label_distillation",
        _label_distillation,
        trained=("student_hidden", "student_weight"),
        sizes=("hidden", "vocabulary"),
        tokens=(2048, 8192),
        reference=_plain_label_distillation,
        eager=_whole_vocabulary_distillation,
        priced=_label_cost,
    ),
)
