"""Operands and rivals in plain torch for the operations of training. Computes nothing itself."""

from __future__ import annotations

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



TRAINING = (
    Operation("rms_norm", _rms_norm, trained=("x", "weight"), module_name="norm", priced=_norm_cost),
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
)
