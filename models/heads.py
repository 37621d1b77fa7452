"""Turns hidden states of last tokens into one raw logit per head. Knows no slates, no calibration.

Only the rows of the output matrix that heads read take part; `models.head_card` says what a raw
logit means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernels.score_head import label_difference, score_head
from models.decoder import Decoder
from models.head_card import HeadOutputs


@dataclass(frozen=True, slots=True)
class GradedColumns:
    """Which logits a head reads, [start, stop), and log gains and log (1 - gain) of them."""

    start: int
    stop: int
    gain: Tensor  # (stop - start,) float32
    loss: Tensor  # (stop - start,) float32

    def raw_logit(self, logits: Tensor) -> Tensor:
        """logit(sum_k g[k] p[k]) of (N, rows) as a difference of log-sum-exps: (N,)."""
        own = logits[:, self.start : self.stop]
        return torch.logsumexp(own + self.gain, 1) - torch.logsumexp(own + self.loss, 1)

    def to(self, device: torch.device) -> GradedColumns:
        """The same on another device."""
        return replace(self, gain=self.gain.to(device), loss=self.loss.to(device))


@dataclass(frozen=True, slots=True)
class ScoringHeads:
    """All heads of a model in one product.

    A head of two labels is one row, best minus worst, subtracted before any rounding; a single
    output is its own row; more labels stand side by side and are graded afterwards.
    """

    norm_weight: Tensor  # (hidden,)
    eps: float
    rows: Tensor  # (R, hidden) float32
    graded: tuple[GradedColumns | None, ...]  # one a head; None: its row is the raw logit already

    @classmethod
    def of(cls, decoder: Decoder, heads: Sequence[HeadOutputs]) -> ScoringHeads:
        """Takes copies of the rows that `heads` read of the decoder's output matrix."""
        rows: list[Tensor] = []
        graded: list[GradedColumns | None] = []
        for head in heads:
            outputs = decoder.output_embedding[list(head.rows)].detach().float()
            if sorted(head.gains) == [0.0, 1.0]:
                best = head.gains.index(1.0)
                outputs = label_difference(outputs[best], outputs[1 - best])
            start = sum(map(len, rows))
            graded.append(_graded(head, start) if len(outputs) > 1 else None)
            rows.append(outputs)
        norm = decoder.model.norm.weight.detach()  # stays where it is when the decoder moves
        return cls(norm, decoder.config.rms_norm_eps, torch.cat(rows), tuple(graded))

    def to(self, device: torch.device) -> ScoringHeads:
        """The same heads on another device."""
        graded = tuple(columns and columns.to(device) for columns in self.graded)
        weight, rows = self.norm_weight.to(device), self.rows.to(device)
        return replace(self, norm_weight=weight, rows=rows, graded=graded)

    def raw_logits(self, hidden: Tensor) -> Tensor:
        """hidden: (N, hidden) before the final norm. Returns (N, heads) float32."""
        logits = score_head(hidden, self.norm_weight, self.eps, self.rows)
        if not any(self.graded):
            return logits
        columns, start = [], 0
        for head in self.graded:
            columns.append(head.raw_logit(logits) if head else logits[:, start])
            start = head.stop if head else start + 1
        return torch.stack(columns, dim=1)


def _graded(head: HeadOutputs, start: int) -> GradedColumns:
    gains = torch.tensor(head.gains, dtype=torch.float64)
    logs = gains.log().float(), (1 - gains).log().float()
    return GradedColumns(start, start + len(head.gains), *logs)
