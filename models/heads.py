"""Turns hidden states of last tokens into raw logits. Knows nothing of slates or calibration."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernels.score_head import label_difference, score_head
from models.decoder import Decoder


@dataclass(frozen=True, slots=True)
class LabelHead:
    """raw_logit = logit(yes) - logit(no); only these two rows of the output embedding are read."""

    norm_weight: Tensor  # (hidden,)
    eps: float
    difference: Tensor  # (1, hidden) float32: row of yes minus row of no

    @classmethod
    def from_decoder(cls, decoder: Decoder, label_ids: tuple[int, int]) -> LabelHead:
        """Takes the two rows of `label_ids`, (yes, no)."""
        yes, no = decoder.output_embedding[list(label_ids)]
        norm = decoder.model.norm.weight.detach()  # stays where it is when the decoder moves
        return cls(norm, decoder.config.rms_norm_eps, label_difference(yes, no))

    def to(self, device: torch.device) -> LabelHead:
        """The same head on another device."""
        weight, difference = self.norm_weight.to(device), self.difference.to(device)
        return replace(self, norm_weight=weight, difference=difference)

    def raw_logits(self, hidden: Tensor) -> Tensor:
        """hidden: (N, hidden) before the final norm. Returns (N,) float32."""
        return score_head(hidden, self.norm_weight, self.eps, self.difference).squeeze(1)
