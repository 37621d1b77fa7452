"""Rotary position tables of every served kind. Knows nothing of attention or of files.

    angle[p, i] = p * frequency[i]

default    frequency[i] = theta^(-2i / head_dim)
linear     the same over `factor`
dynamic    the same as default: it scales only behind the positions that are served
llama3     over `factor` where a wave is longer than the trained context / low_freq_factor,
           untouched where it is shorter than context / high_freq_factor, blended between
yarn       over `factor` where a dimension turns less than beta_slow times in the trained context,
           untouched where it turns more than beta_fast times, blended by dimension between
           (arXiv 2309.00071)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.config import DecoderConfig
from models.rope_scaling import RopeScaling


class Rotary(nn.Module):
    """Tables (max_positions, head_dim) of Hugging Face's rotate-half convention.

    rotated = x cos + swap(x) sin, where swap exchanges the halves of a head and `sin` carries the
    minus sign of its first half. Both carry YaRN's attention factor.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        positions = torch.arange(config.max_tokens, dtype=torch.float32)
        angles = torch.outer(positions, frequencies(config))
        cos, sin = angles.cos(), angles.sin()
        if config.rope_scaling.attention_factor != 1:
            cos, sin = (table * config.rope_scaling.attention_factor for table in (cos, sin))
        self.register_buffer("cos", cos.repeat(1, 2), persistent=False)
        self.register_buffer("sin", torch.cat((-sin, sin), 1), persistent=False)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """x: (T, heads, head_dim), positions: (T,) int64. Returns x rotated, in its dtype."""
        # index_select and addcmul: half the time of indexing and of separate products on a CPU.
        cos = self.cos.index_select(0, positions).unsqueeze(1).to(x.dtype)
        sin = self.sin.index_select(0, positions).unsqueeze(1).to(x.dtype)
        left, right = x.chunk(2, dim=-1)
        return torch.addcmul(x * cos, torch.cat((right, left), dim=-1), sin)


def frequencies(config: DecoderConfig) -> Tensor:
    """(head_dim / 2,) float32 angles per position."""
    exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    plain, scaling = config.rope_theta**-exponent, config.rope_scaling
    if scaling.kind == "linear":
        return plain / scaling.factor
    if scaling.kind == "llama3":
        return _blend(plain, scaling.factor, _llama3_untouched(plain, scaling))
    if scaling.kind == "yarn":
        return _blend(plain, scaling.factor, _yarn_untouched(config))
    return plain


def _blend(plain: Tensor, factor: float, untouched: Tensor) -> Tensor:
    """Between plain / factor, where `untouched` is 0, and plain, where it is 1."""
    return torch.lerp(plain / factor, plain, untouched)


def _llama3_untouched(plain: Tensor, scaling: RopeScaling) -> Tensor:
    turns = scaling.original_max_position_embeddings * plain / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    return ((turns - low) / (high - low)).clamp(0, 1)


def _yarn_untouched(config: DecoderConfig) -> Tensor:
    scaling, width = config.rope_scaling, config.head_dim

    def dimension(turns: float) -> float:
        """Where a wave turns that often in the trained context."""
        context = scaling.original_max_position_embeddings / (turns * 2 * math.pi)
        return width * math.log(context) / (2 * math.log(config.rope_theta))

    first, last = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    span = (last - first) or 0.001
    dimensions = torch.arange(width // 2, dtype=torch.float32)
    return 1 - ((dimensions - first) / span).clamp(0, 1)
