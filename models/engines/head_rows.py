"""Applies heads to rows in blocks of one size. Knows no decoder.

A product's bits depend on how many rows it has, so a score would depend on its company.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.heads import ScoringHeads

BLOCK_ROWS = 16  # few enough that torch wakes no threads for them


def raw_logits_by_block(heads: ScoringHeads, hidden: Tensor) -> Tensor:
    """heads.raw_logits(hidden), zeros behind the last row."""
    rows = len(hidden)
    padded = F.pad(hidden, (0, 0, 0, -rows % BLOCK_ROWS))
    blocks = [heads.raw_logits(block) for block in torch.split(padded, BLOCK_ROWS)]
    return torch.cat(blocks)[:rows]
