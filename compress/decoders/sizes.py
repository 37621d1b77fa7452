"""The decoder that sizes of a recipe describe. Knows nothing of its weights or what it learns."""

from __future__ import annotations

from typing import Protocol

from models.config import DecoderConfig

HEAD_DIM = 64
LONGEST = 1024  # tokens of a context and a candidate together


class Sizes(Protocol):
    """Options of a stage that makes a decoder."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...


def decoder_config(sizes: Sizes, vocab_size: int) -> DecoderConfig:
    """A Qwen3 config of these sizes."""
    return DecoderConfig(
        vocab_size=vocab_size,
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.intermediate_size,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        head_dim=HEAD_DIM,
        rope_theta=1e6,
        max_position_embeddings=LONGEST,
    )
