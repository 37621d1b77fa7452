"""Reads contexts into keys and values, of which a cache keeps blocks. Knows no candidates' scores.

On torch, in the decoder's own arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from kernels.multi_item_attention import ItemLayout, multi_item_attention
from models.decoder import Decoder
from models.engines.base import CacheEvents
from models.engines.prefix_cache import PrefixCache
from models.packing import PackedBatch, PrefixGroup, TokenIds, pack

PASS_TOKENS = 4096  # activations of more would cost memory and gain no speed


@dataclass(slots=True)
class KnownContext:
    """A context and what is known of it so far."""

    ids: TokenIds
    chain: tuple[str, ...]  # block hashes of `ids`
    held_blocks: int
    cached_tokens: int
    keys_values: list[Tensor] = field(default_factory=list)  # (layers, 2, tokens, kv_heads, d) each

    @property
    def known_tokens(self) -> int:
        return sum(block.shape[2] for block in self.keys_values)


class ContextReader:
    """Keeps blocks of what it read within `cache_bytes`.

    one_by_one: one block of one context a pass, so that the same bits come out in every batch.
    """

    def __init__(
        self, decoder: Decoder, block_size: int, cache_bytes: int, one_by_one: bool = False
    ) -> None:
        self.block_size = block_size
        self._decoder = decoder
        self._cache = PrefixCache(cache_bytes)
        self._one_by_one = one_by_one

    @contextmanager
    def read(
        self, contexts: Sequence[tuple[TokenIds, tuple[str, ...]]]
    ) -> Iterator[list[KnownContext]]:
        """Whole contexts of ids and their block hashes; what was held of them stays for as long."""
        known = [self._look_up(*context) for context in contexts]
        with ExitStack() as pins:
            for context in known:
                pins.enter_context(self._cache.pinned(context.chain[: context.held_blocks]))
            self._extend(known)
            yield known

    def drain_cache_events(self) -> CacheEvents:
        """As `models.engines.base.Engine` says."""
        return self._cache.drain_events()

    def _look_up(self, ids: TokenIds, chain: tuple[str, ...]) -> KnownContext:
        """Reads what the cache holds of the context."""
        held = self._cache.match(chain)
        cached = min(held * self.block_size, len(ids))
        return KnownContext(ids, chain, held, cached, self._cache.read(chain[:held]))

    def _extend(self, contexts: Sequence[KnownContext]) -> None:
        """Computes the missing tokens of all contexts, pass by pass, and keeps what fits."""
        while parts := self._missing(contexts):
            batch = pack([PrefixGroup(c.known_tokens, [ids]) for c, ids in parts])
            prefixes = packed_prefixes(self._decoder, [c.keys_values for c, _ in parts])
            _, computed = run_and_keep(self._decoder, batch, prefixes, rows=NO_ROWS)
            bounds = pairwise(batch.layout.cu_queries)
            for (context, _), (start, stop) in zip(parts, bounds, strict=True):
                context.keys_values += torch.split(computed[:, :, start:stop], self.block_size, 2)
        for context in contexts:
            if fresh := context.keys_values[context.held_blocks :]:
                self._cache.insert(context.chain, fresh)

    def _missing(self, contexts: Sequence[KnownContext]) -> list[tuple[KnownContext, TokenIds]]:
        """What the next pass computes: whole blocks of contexts, but for their ends."""
        parts: list[tuple[KnownContext, TokenIds]] = []
        room = self.block_size if self._one_by_one else PASS_TOKENS
        for context in contexts:
            most = max(room - room % self.block_size, 0 if parts else self.block_size)
            if ids := context.ids[context.known_tokens :][:most]:
                parts.append((context, ids))
                room = max(0, room - len(ids)) if not self._one_by_one else 0
        return parts


NO_ROWS = torch.empty(0, dtype=torch.int64)


def run_and_keep(
    decoder: Decoder, batch: PackedBatch, prefixes: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Hidden states of `rows`, and keys and values of all T tokens of a batch.

    The latter (layers, 2, T, kv_heads, head_dim), as `prefixes` (packed_prefixes).
    """
    attention = PrefixAttention(prefixes, batch.layout)
    layers: list[Tensor] = []

    def keep(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        layers.append(torch.stack((k, v)))
        return attention(layer, q, k, v)

    hidden = decoder(batch.token_ids, batch.positions, keep, rows)
    return hidden, torch.stack(layers)


def packed_prefixes(decoder: Decoder, known: Sequence[Sequence[Tensor]]) -> Tensor:
    """What is known of several prefixes, one behind the other, each of it in parts.

    (layers, 2, P, kv_heads, head_dim).
    """
    config = decoder.config
    shape = (config.num_hidden_layers, 2, 0, config.num_key_value_heads, config.head_dim)
    return torch.cat([torch.empty(shape), *(part for parts in known for part in parts)], 2)


@dataclass(frozen=True, slots=True)
class PrefixAttention:
    """The decoder's Attention: items see their group's prefix and themselves."""

    prefixes: Tensor  # (layers, 2, P, kv_heads, head_dim)
    layout: ItemLayout

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        prefix_k, prefix_v = self.prefixes[layer].unbind(0)
        return multi_item_attention(q, k, v, prefix_k, prefix_v, self.layout)
