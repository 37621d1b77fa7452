"""SmoothQuant: moves the spread of activations into the weights before both are rounded.

Input j is divided by s_j = max|X_j|^a / max|W_j|^(1 - a) and the weights that read it are
multiplied; the division is folded into the norm before (arXiv 2211.10438, equation 4). Knows no
model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

STRENGTH = 0.8  # a, of LinkedIn's recipe (arXiv 2502.14305); 0.5 is usual
LEAST = 1e-5


def smoothing_scales(
    largest_inputs: Tensor, weights: Sequence[Tensor], strength: float = STRENGTH
) -> Tensor:
    """largest_inputs: (p,) max|X_j| over the calibration rows; weights: all (q, p) that read X.

    Returns (p,) positive; 1 where an input or all its weights are zero.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be 0 to 1, got {strength}")
    largest_weights = torch.stack([weight.abs().amax(0) for weight in weights]).amax(0)
    spoken = (largest_inputs > 0) & (largest_weights > 0)
    scales = largest_inputs.clamp(min=LEAST) ** strength
    scales = scales / largest_weights.clamp(min=LEAST) ** (1 - strength)
    return torch.where(spoken, scales.clamp(min=LEAST), 1.0)


def fold(norm: Tensor, weights: Sequence[Tensor], scales: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The norm's weight (p,) divided and the weights (q, p) multiplied: the same products."""
    return norm / scales, [weight * scales for weight in weights]
