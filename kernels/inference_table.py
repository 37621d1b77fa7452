"""Operands for the operations of ranking, at a decoder's sizes. Computes nothing itself."""

from __future__ import annotations


from kernels.catalogue import Draw, Operands, Operation
from kernels.shapes import ModelShape

LABELS = 2
EPS = 1e-6


def _score_head(draw: Draw, model: ModelShape, tokens: int) -> Operands:
    return {
        "hidden": draw.normal(tokens, model.hidden),
        "norm_weight": draw.normal(model.hidden, scale=0.1, shift=1.0),
        "eps": EPS,
        "label_rows": draw.weight(LABELS, model.hidden),
    }


def _segmented_topk(draw: Draw, model: ModelShape, tokens: int) -> Operands:
    """Slates of unequal length, ten answers each."""
    longest = 100
    bounds = list(range(0, tokens, longest - 3)) + [tokens]
    return {
        "scores": draw.normal(tokens),
        "cu_seqlens": draw.integers(bounds),
        "k": 10,
        "max_length": longest,
    }


INFERENCE = (
    Operation("score_head", _score_head, tokens=(64, 256, 2048)),
    Operation("segmented_topk", _segmented_topk, module_name="topk", sizes=(), tokens=(2048,)),
)
