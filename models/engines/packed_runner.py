"""The runner of the CPU: contexts once through a prefix cache, all candidates in one packed pass.

Knows nothing of queues, tenants, text or calibration.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from kernels.multi_item_attention import ItemLayout, multi_item_attention
from models.checkpoint import ModelDirectory, load_decoder
from models.decoder import Decoder
from models.engines.base import CacheEvents
from models.engines.runner import ContextGroup, GroupScores
from models.heads import LabelHead
from models.packing import PackedBatch, PrefixGroup, pack
from models.prefix_cache import PrefixCache


@dataclass(slots=True)
class _Context:
    """A group's context and what is known of it so far."""

    group: ContextGroup
    held_blocks: int
    cached_tokens: int
    keys_values: list[Tensor] = field(default_factory=list)  # (layers, 2, tokens, kv_heads, d) each


class PackedRunner:
    """Runner in fp32 on the CPU; see `models.engines.runner.Runner` for what it promises."""

    def __init__(
        self, decoder: Decoder, label_ids: tuple[int, int], block_size: int, cache_bytes: int
    ) -> None:
        self._block_size = block_size
        self._decoder = decoder
        self._head = LabelHead.from_decoder(decoder, label_ids)
        self._cache = PrefixCache(cache_bytes)

    @classmethod
    def from_directory(cls, directory: ModelDirectory, cache_bytes: int) -> PackedRunner:
        """Loads the weights; ModelDirectoryError as `load_decoder` says."""
        labels, block_size = directory.prompt.label_ids, directory.card.block_size
        return cls(load_decoder(directory), labels, block_size, cache_bytes)

    @property
    def block_size(self) -> int:
        return self._block_size

    @torch.inference_mode()
    def run(self, groups: Sequence[ContextGroup]) -> list[GroupScores]:
        contexts = [self._look_up(group) for group in groups]
        with ExitStack() as pins:
            for context in contexts:
                held = context.group.chain[: context.held_blocks]
                pins.enter_context(self._cache.pinned(held))
            self._extend([c for c in contexts if c.cached_tokens < len(c.group.ids)])
        raw_logits = iter(self._score_candidates(contexts))
        return [
            GroupScores(c.cached_tokens, [next(raw_logits) for _ in c.group.candidates])
            for c in contexts
        ]

    def drain_cache_events(self) -> CacheEvents:
        return self._cache.drain_events()

    def _look_up(self, group: ContextGroup) -> _Context:
        """Reads what the cache holds of the context."""
        held = self._cache.match(group.chain)
        cached = min(held * self._block_size, len(group.ids))
        return _Context(group, held, cached, self._cache.read(group.chain[:held]))

    def _extend(self, contexts: Sequence[_Context]) -> None:
        """Computes the missing tokens of all contexts in one pass, and keeps what fits."""
        if not contexts:
            return
        missing = [c.group.ids[c.cached_tokens :] for c in contexts]
        batch = pack(
            [PrefixGroup(c.cached_tokens, [ids]) for c, ids in zip(contexts, missing, strict=True)]
        )
        computed = self._keys_values(batch, self._prefixes(contexts))
        for context, (start, stop) in zip(contexts, pairwise(batch.layout.cu_queries), strict=True):
            blocks = torch.split(computed[:, :, start:stop], self._block_size, dim=2)
            context.keys_values += blocks
            self._cache.insert(context.group.chain, blocks)

    def _score_candidates(self, contexts: Sequence[_Context]) -> list[float]:
        """Raw logits of all candidates, contexts and their candidates in order."""
        groups = [PrefixGroup(len(c.group.ids), c.group.candidates) for c in contexts]
        if not any(group.items for group in groups):
            return []
        batch = pack(groups)
        attention = _PrefixAttention(self._prefixes(contexts), batch.layout)
        hidden = self._decoder(batch.token_ids, batch.positions, attention, batch.last_tokens)
        return self._head.raw_logits(hidden).tolist()

    def _keys_values(self, batch: PackedBatch, prefixes: Tensor) -> Tensor:
        """Keys and values of the batch's own tokens, (layers, 2, T, kv_heads, head_dim)."""
        attention = _PrefixAttention(prefixes, batch.layout)
        layers: list[Tensor] = []

        def keep(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            layers.append(torch.stack((k, v)))
            return attention(layer, q, k, v)

        no_rows = torch.empty(0, dtype=torch.int64)
        self._decoder(batch.token_ids, batch.positions, keep, no_rows)
        return torch.stack(layers)

    def _prefixes(self, contexts: Sequence[_Context]) -> Tensor:
        """What is known of the contexts, one after another: (layers, 2, P, kv_heads, head_dim)."""
        config = self._decoder.config
        shape = (config.num_hidden_layers, 2, 0, config.num_key_value_heads, config.head_dim)
        return torch.cat([torch.empty(shape), *(kv for c in contexts for kv in c.keys_values)], 2)


@dataclass(frozen=True, slots=True)
class _PrefixAttention:
    """The decoder's Attention: items see their group's prefix and themselves."""

    prefixes: Tensor  # (layers, 2, P, kv_heads, head_dim)
    layout: ItemLayout

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        prefix_k, prefix_v = self.prefixes[layer].unbind(0)
        return multi_item_attention(q, k, v, prefix_k, prefix_v, self.layout)
