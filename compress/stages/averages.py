"""Exponential moving averages of weights in training. Knows no loss and no files."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Averages:
    """Follows the weights of a model that are trained; with a decay of 0 it holds nothing."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        self._weights, self._decay = trained if decay else [], decay
        self._means = [weight.detach().clone() for weight in self._weights]

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """After step `step`, counted from 0; the first steps count more, as the decay is not yet
        worth the name.
        """
        share = 1 - min(self._decay, (2 + step) / (11 + step))
        for mean, weight in zip(self._means, self._weights, strict=True):
            mean.lerp_(weight, share)

    def state(self) -> list[Tensor]:
        """What `load` needs to go on bit for bit."""
        return self._means

    @torch.no_grad()
    def load(self, means: Sequence[Tensor]) -> None:
        """Puts a state back."""
        for mean, stored in zip(self._means, means, strict=True):
            mean.copy_(stored)

    @torch.no_grad()
    def put(self) -> None:
        """Leaves the averages in the model."""
        for mean, weight in zip(self._means, self._weights, strict=True):
            weight.copy_(mean)
