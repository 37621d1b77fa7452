"""Samples how much probability a model puts on its labels. Knows no calibration and no alarm.

    mass = sum over labels of softmax over the whole vocabulary

A model that answers something else is badly prompted or not trained for the task, which its labels'
logits alone do not show. The whole vocabulary is a large product, so only a few candidates of every
`EVERY`-th pass are measured, a slice of the vocabulary at a time: nothing of size tokens x
vocabulary exists.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.score_head import score_head_reference
from models.decoder import Decoder
from models.head_card import HeadOutputs

EVERY = 64  # passes; the first is a warm-up, the second is measured
MOST_ROWS = 4  # more would cost time and, drawn from one pass, tell little more
SLICE = 8192  # rows of the vocabulary


class LabelMass:
    """Fed with every pass's hidden states, keeps what it measured until it is drained."""

    def __init__(self, decoder: Decoder, heads: Sequence[HeadOutputs]) -> None:
        self._classifier = decoder.config.num_labels > 0
        self._norm_weight = decoder.model.norm.weight.detach()
        self._eps = decoder.config.rms_norm_eps
        self._embedding = decoder.output_embedding.detach()
        self._labels = sorted({row for head in heads for row in head.rows})
        self._passes = 0
        self._measured: list[float] = []

    def reading(self, embedding: Tensor) -> LabelMass:
        """The same on another device, where `embedding` is the output matrix's copy."""
        other = copy.copy(self)
        other._embedding = embedding
        other._norm_weight = self._norm_weight.to(embedding.device)
        other._measured = []
        return other

    def observe(self, hidden: Tensor) -> None:
        """hidden: (N, hidden) of last tokens before the final norm; N may be 0."""
        if self._classifier or not len(hidden):
            return
        self._passes += 1
        if self._passes % EVERY == 2:
            step = -(-len(hidden) // MOST_ROWS)
            self._measured += self.measure(hidden[::step])

    def measure(self, hidden: Tensor) -> list[float]:
        """The mass of every row, each in [0, 1]; takes SLICE x rows floats at a time."""
        slices = torch.split(self._embedding, SLICE)
        # One tensor for all: a small result of each slice, kept, would lie in what the slice before
        # freed, and every slice would take memory of its own.
        whole = hidden.new_empty(len(slices), len(hidden), dtype=torch.float32)
        for place, rows in zip(whole, slices, strict=True):
            torch.logsumexp(self._logits(hidden, rows), 1, out=place)
        labels = self._logits(hidden, self._embedding[self._labels]).logsumexp(1)
        masses: list[float] = (labels - whole.logsumexp(0)).exp().clamp(max=1).tolist()
        return masses

    def drain(self) -> tuple[float, ...]:
        """What was measured since the last call."""
        drained, self._measured = tuple(self._measured), []
        return drained

    def _logits(self, hidden: Tensor, rows: Tensor) -> Tensor:
        return score_head_reference(hidden, self._norm_weight, self._eps, rows)
