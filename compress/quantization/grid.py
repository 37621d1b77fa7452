"""Grids of integers times a scale on which weights are rounded. Knows no method that chooses codes.

Symmetric: a code is a whole number of -2^(b-1) to 2^(b-1) - 1, its value code x scale; a scale
belongs to one output channel, or to `group_size` inputs of it (W8A8 and W4A16 of arXiv 2502.14305).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BITS = (2, 3, 4, 8)
CLIPS = tuple(1 - 0.02 * step for step in range(16))  # of the largest weight, tried for a scale


@dataclass(frozen=True, slots=True)
class Grid:
    """scales: (q, groups), positive. group_size: inputs that share one."""

    scales: Tensor
    bits: int
    group_size: int

    @classmethod
    def of(cls, weight: Tensor, bits: int, group_size: int | None = None) -> Grid:
        """For a linear layer's weight (q, p): the clipping of each group with least squared error.

        group_size None is one scale per channel. Raises ValueError for bits that are not served and
        for groups that do not divide p.
        """
        inputs = weight.shape[1]
        size = group_size or inputs
        if bits not in BITS or inputs % size:
            raise ValueError(
                f"{bits} bits in groups of {size} do not fit {inputs} inputs; use {BITS} bits and "
                "a group size that divides them"
            )
        groups = weight.reshape(len(weight), -1, size)
        return cls(_best_scales(groups, bits), bits, size)

    @property
    def lowest(self) -> int:
        return -(1 << (self.bits - 1))

    def column(self, index: int) -> Tensor:
        """(q,) the scale that input `index` has in each channel."""
        return self.scales[:, index // self.group_size]

    def expanded(self) -> Tensor:
        """(q, p) the scale of every weight."""
        return self.scales.repeat_interleave(self.group_size, dim=1)

    def codes(self, weight: Tensor) -> Tensor:
        """(q, p) int8, nearest codes: round-to-nearest quantization."""
        return self._nearest(weight / self.expanded()).to(torch.int8)

    def values(self, codes: Tensor) -> Tensor:
        """(q, p) what the codes stand for."""
        return codes.to(self.scales.dtype) * self.expanded()

    def rounded(self, weight: Tensor) -> Tensor:
        """(q, p) the nearest values on the grid."""
        return self.values(self.codes(weight))

    def rounded_column(self, values: Tensor, index: int) -> Tensor:
        """(q,) nearest values for input `index` alone."""
        scale = self.column(index)
        return self._nearest(values / scale) * scale

    def _nearest(self, scaled: Tensor) -> Tensor:
        return scaled.round().clamp(self.lowest, -self.lowest - 1)


def _best_scales(groups: Tensor, bits: int) -> Tensor:
    """groups: (q, g, size). Of a few clippings of the largest weight the one with least error."""
    highest = (1 << (bits - 1)) - 1
    largest = groups.abs().amax(2).clamp(min=torch.finfo(groups.dtype).tiny * 2**20)
    best: Tensor = largest / highest
    least = torch.full_like(largest, torch.inf)
    for clip in CLIPS if bits < max(BITS) else CLIPS[:1]:
        scale = clip * largest / highest
        codes = (groups / scale[..., None]).round().clamp(-highest - 1, highest)
        error = (codes * scale[..., None] - groups).square().sum(2)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best
