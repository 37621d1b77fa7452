"""The decoder that sizes of a recipe describe. Knows nothing of its weights or what it learns."""

from __future__ import annotations

from typing import Protocol

from compress.stages.stage import RecipeError
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


def refuse_ungrouped(stage: str, sizes: Sizes) -> None:
    """Raises RecipeError where query heads do not divide among key heads."""
    if sizes.kv_heads < 1 or sizes.heads < 1 or sizes.heads % sizes.kv_heads:
        raise RecipeError(
            f"{stage}: {sizes.heads} heads do not divide among {sizes.kv_heads} kv_heads; give "
            "a multiple of kv_heads"
        )


def refuse_unwired(stage: str, sizes: Sizes) -> None:
    """Raises RecipeError for sizes in which two texts cannot be compared from the start."""
    width = sizes.heads * HEAD_DIM  # of what the wiring compares; half a side, signs twice
    if sizes.heads % 2 or min(sizes.hidden_size, sizes.intermediate_size) < width:
        raise RecipeError(
            f"{stage}: {sizes.heads} heads are wired as pairs of {HEAD_DIM} each; take an even "
            f"number, and hidden_size and intermediate_size of at least {width}"
        )
    refuse_ungrouped(stage, sizes)


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
