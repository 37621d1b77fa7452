"""Turns hidden states of last tokens into raw logits. Knows nothing of slates or calibration."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kernels.score_head import score_head
from models.decoder import Decoder


@dataclass(frozen=True, slots=True)
class LabelHead:
    """raw_logit = logit(yes) - logit(no); only these two rows of the output embedding are read."""

    norm_weight: Tensor  # (hidden,)
    eps: float
    label_rows: Tensor  # (2, hidden): yes, no

    @classmethod
    def from_decoder(cls, decoder: Decoder, label_ids: tuple[int, int]) -> LabelHead:
        """Copies the two rows of `label_ids`, (yes, no)."""
        rows = decoder.output_embedding[list(label_ids)].clone()
        return cls(decoder.model.norm.weight, decoder.config.rms_norm_eps, rows)

    def raw_logits(self, hidden: Tensor) -> Tensor:
        """hidden: (N, hidden) before the final norm. Returns (N,) float32."""
        yes, no = score_head(hidden, self.norm_weight, self.eps, self.label_rows).unbind(dim=1)
        return yes - no
