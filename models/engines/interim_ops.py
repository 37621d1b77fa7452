"""Interim torch operations, until the kernels land."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def swiglu_packed(gate_up: Tensor, *, backend: str = "auto") -> Tensor:
    """silu(gate) * up."""
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate) * up
