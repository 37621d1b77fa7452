"""The reader of contexts when its cache is too small for all of them."""

from __future__ import annotations

import torch

from models.decoder import Decoder
from models.engines.contexts import ContextReader
from models.prompt import block_hashes

BLOCK = 4
Context = tuple[tuple[int, ...], tuple[str, ...]]


def context(*ids: int) -> Context:
    return ids, block_hashes(ids, BLOCK)


@torch.no_grad()
def test_what_is_being_read_on_is_not_evicted_for_another(tiny_decoder: Decoder) -> None:
    config = tiny_decoder.config
    block = config.num_hidden_layers * 2 * BLOCK * config.num_key_value_heads * config.head_dim * 4
    reader = ContextReader(tiny_decoder, BLOCK, 3 * block)
    short, longer = context(*range(1, 9)), context(*range(1, 13))
    other = context(*range(20, 32))
    with reader.read([short]):
        pass
    with reader.read([other, longer]) as (_, known):
        assert known.cached_tokens == 8
        assert known.known_tokens == 12
    with reader.read([longer]) as (again,):
        assert again.held_blocks >= 2
