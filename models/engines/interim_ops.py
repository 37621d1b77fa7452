"""Interim torch operations, until the kernels land."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def swiglu_packed(gate_up: Tensor, *, backend: str = "auto") -> Tensor:
    """silu(gate) * up."""
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate) * up


def qk_norm_rope(
    q,
    k,
    q_weight,
    k_weight,
    cos,
    sin,
    positions,
    eps,
    v,
    k_pages,
    v_pages,
    slots,
    *,
    backend="auto",
):  # type: ignore
    cos = cos.index_select(0, positions).unsqueeze(1)
    sin = sin.index_select(0, positions).unsqueeze(1)
    for x, weight in ((q, q_weight), (k, k_weight)):
        left, right = F.rms_norm(x, weight.shape, weight, eps).float().chunk(2, -1)
        x.copy_(torch.cat((left * cos - right * sin, right * cos + left * sin), -1))
    slots = slots.clamp(min=0).long()
    k_pages.flatten(0, 1).index_copy_(0, slots, k)
    v_pages.flatten(0, 1).index_copy_(0, slots, v)
