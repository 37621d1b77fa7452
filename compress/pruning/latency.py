"""Measures how long halves of a layer take by width on this machine. Knows no trained weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from compress.decoders.slates import SlateAttention, SlateBatch
from compress.pruning.budgets import Prices, monotone
from models.config import DecoderConfig
from models.decoder import DecoderLayer
from models.rotary import Rotary

REPEATS = 5


@dataclass(frozen=True, slots=True)
class LatencyTable(Prices):
    """Seconds of one layer's half for one batch."""

    def to_json(self) -> dict[str, Any]:
        """Inverse of `from_json`."""
        return {"mlp": dict(self.mlp), "attention": dict(self.attention)}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> LatencyTable:
        """Keys of a JSON object are texts."""
        parts = {name: {int(k): float(v) for k, v in raw[name].items()} for name in raw}
        return cls(**parts)


@torch.inference_mode()
def measure_latency(
    config: DecoderConfig, batch: SlateBatch, neurons: Sequence[int], groups: Sequence[int]
) -> LatencyTable:
    """In fp32 on the threads that torch has; each the fastest of some runs."""
    x = torch.randn(len(batch.token_ids), config.hidden_size)
    rotary, attention = Rotary(config), SlateAttention(batch)
    per_group = config.num_attention_heads // config.num_key_value_heads

    def mlp(width: int) -> Callable[[], object]:
        layer = DecoderLayer(replace(config, intermediate_size=width))
        return lambda: layer.mlp(layer.post_attention_layernorm(x))

    def mixing(count: int) -> Callable[[], object]:
        narrow = replace(config, num_key_value_heads=count, num_attention_heads=count * per_group)
        layer = DecoderLayer(narrow)
        return lambda: layer.self_attn(x, 0, batch.positions, rotary, attention)

    return LatencyTable(
        monotone({width: _seconds(mlp(width)) for width in neurons}),
        monotone({count: _seconds(mixing(count)) for count in groups}),
    )


def _seconds(call: Callable[[], object]) -> float:
    call()
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)
