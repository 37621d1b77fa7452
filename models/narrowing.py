"""Weights in the dtype that they are stored in. Knows no file and no model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.errors import FairslateError


class WeightRangeError(FairslateError):
    """A weight that its storage cannot hold: read back, it would be infinite."""

    code = "weight_out_of_range"


def narrowed(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Contiguous copies in `dtype`. Raises WeightRangeError naming the first that is too large."""
    most = torch.finfo(dtype).max
    for name, tensor in weights.items():
        largest = tensor.detach().abs().max().item() if tensor.numel() else 0.0
        if tensor.dtype != dtype and largest > most:
            stored = str(dtype).removeprefix("torch.")
            raise WeightRangeError(
                f"{name} holds a weight of {largest:g} and {stored} none beyond {most:g}; store "
                "the model in bfloat16 or float32 (storage), or train it again at lower rates"
            )
    return {name: tensor.detach().to(dtype).contiguous() for name, tensor in weights.items()}
