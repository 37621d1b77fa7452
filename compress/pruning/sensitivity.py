"""Measures what the scores lose when one half of a layer is pruned, or a layer left out.

A half's loss at one width is measured end to end; its loss at other widths follows the curve of its
own output error, which one greedy removal gives for all widths. Knows no budget.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from compress.decoders.slates import SlateAttention, SlateBatch
from compress.layers.gram import CalibrationDataError, Moments
from compress.layers.streaming import ATTENTION, MLP, Half, Streams, halves_of
from compress.pruning.osscar import Problem, Removal, refit
from compress.pruning.slicing import LayerCut, sliced
from models.decoder import Decoder
from models.head_card import HeadOutputs
from models.heads import ScoringHeads

OUTPUTS = {ATTENTION: "o_proj", MLP: "down_proj"}
SHARES = {ATTENTION: "kv_share", MLP: "mlp_share"}  # the options that say what goes


@dataclass(frozen=True, slots=True)
class Scores:
    """Raw logits of calibration slates, and how far another decoder's are from them."""

    slates: Sequence[SlateBatch]
    heads: Sequence[HeadOutputs]
    dense: Tensor  # (candidates, heads)

    @classmethod
    def of(
        cls, decoder: Decoder, slates: Sequence[SlateBatch], heads: Sequence[HeadOutputs]
    ) -> Scores:
        """Of the dense model."""
        return cls(slates, heads, _raw_logits(decoder, slates, heads))

    def loss(self, decoder: Decoder) -> float:
        """Mean squared change of raw logits over their variance."""
        changed = _raw_logits(decoder, self.slates, self.heads)
        return float((changed - self.dense).square().mean() / self.dense.var().clamp(min=1e-12))


def least_needed_layers(decoder: Decoder, scores: Scores, count: int) -> list[int]:
    """The `count` layers to leave out, one after the other the one that changes scores least."""
    layers = list(range(decoder.config.num_hidden_layers))
    for _ in range(count):
        losses = {
            gone: scores.loss(without_layers(decoder, [one for one in layers if one != gone]))
            for gone in layers
        }
        layers.remove(min(losses, key=losses.__getitem__))
    return sorted(set(range(decoder.config.num_hidden_layers)) - set(layers))


def without_layers(decoder: Decoder, kept: Sequence[int]) -> Decoder:
    """Only the layers that are kept."""
    return sliced(decoder, [LayerCut.whole(decoder.config, layer) for layer in kept])


def width_losses(
    decoder: Decoder,
    slates: Iterable[SlateBatch],
    scores: Scores,
    sizes: Mapping[str, Sequence[int]],
    work: Path,
    ridge: float,
) -> dict[Half, dict[int, float]]:
    """Loss of every half at each of the sizes of its part, when it alone is pruned to it."""
    losses: dict[Half, dict[int, float]] = {}
    with Streams(slates, work, decoder) as streams:
        for half in halves_of(decoder):
            name = OUTPUTS[half.part]
            moments = streams.inputs(half, [name])[name].moments
            problem = problem_of(decoder, half, moments, ridge)
            losses[half] = _half_losses(decoder, half, problem, scores, sizes[half.part])
            streams.advance(half)
    return losses


def problem_of(
    decoder: Decoder, half: Half, moments: Moments, ridge: float, dense: Decoder | None = None
) -> Problem:
    """Which neurons, or which KV groups, of a half to keep, to give what `dense` gives there.

    Raises CalibrationDataError where nothing reaches any of them, so that none is like another.
    """
    if not moments.hessian.any():
        raise CalibrationDataError(
            f"nothing reaches the {OUTPUTS[half.part]} of layer {half.layer}: its inputs are zero "
            "on all calibration slates, so what to keep is not told; check the model, drop the "
            f"layer, or set {SHARES[half.part]} to 0"
        )
    linear, config = half.linear(decoder, OUTPUTS[half.part]), decoder.config
    groups = config.num_key_value_heads if half.part == ATTENTION else config.intermediate_size
    aim = linear if dense is None else half.linear(dense, OUTPUTS[half.part])
    size = linear.in_features // groups
    return Problem.of(moments, linear.weight.detach(), size, ridge, aim.weight.detach())


@torch.no_grad()
def put_solution(decoder: Decoder, half: Half, rows: Tensor, weights: Tensor) -> None:
    """weights: (rows, outputs) of what stays; all other columns become zero."""
    weight = half.linear(decoder, OUTPUTS[half.part]).weight
    weight.zero_()
    weight[:, rows] = weights.T.to(weight.dtype)


def _half_losses(
    decoder: Decoder, half: Half, problem: Problem, scores: Scores, sizes: Sequence[int]
) -> dict[int, float]:
    probe = min(sizes)
    removal = Removal(problem, range(problem.groups))
    added, curve = 0.0, {problem.groups: 0.0}
    for size in range(problem.groups - 1, probe - 1, -1):
        added += removal.drop(1)
        curve[size] = added
    changed = copy.deepcopy(decoder)
    found = refit(problem, removal.alive)
    put_solution(changed, half, problem.rows(found.kept), found.weights)
    measured = scores.loss(changed)
    whole = max(curve[probe], 1e-300)
    return {size: measured * curve[size] / whole for size in sizes}


@torch.inference_mode()
def _raw_logits(
    decoder: Decoder, slates: Sequence[SlateBatch], heads: Sequence[HeadOutputs]
) -> Tensor:
    scoring = ScoringHeads.of(decoder, heads)
    return torch.cat(
        [
            scoring.raw_logits(
                decoder(one.token_ids, one.positions, SlateAttention(one), one.answers)
            )
            for one in slates
        ]
    )
