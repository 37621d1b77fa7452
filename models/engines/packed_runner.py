"""The runner on torch operations, for any CPU and any model: candidates of many contexts packed.

Knows nothing of queues, tenants, text or calibration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from kernels.multi_item_attention import ItemLayout, multi_item_attention
from models.checkpoint import ModelDirectory, load_decoder
from models.config import DecoderConfig
from models.decoder import Decoder
from models.engines.base import CacheEvents
from models.engines.cpu_probe import CpuChoice
from models.engines.head_rows import raw_logits_by_block
from models.engines.prefix_cache import PrefixCache
from models.engines.runner import ContextGroup, GroupScores
from models.extended_embedding import extend_embedding
from models.head_card import HeadOutputs
from models.heads import ScoringHeads
from models.label_mass import LabelMass
from models.linear import narrow_linears
from models.packing import PackedBatch, PrefixGroup, TokenIds, pack

PASS_TOKENS = 4096  # activations of more would cost memory and gain no speed
IN_FP32 = CpuChoice("float32", "torch", "the plain runner")


@dataclass(slots=True)
class _Context:
    """A group's context and what is known of it so far."""

    group: ContextGroup
    held_blocks: int
    cached_tokens: int
    keys_values: list[Tensor] = field(default_factory=list)  # (layers, 2, tokens, kv_heads, d) each

    @property
    def known_tokens(self) -> int:
        return sum(block.shape[2] for block in self.keys_values)


class PackedRunner:
    """Runner on torch; see `models.engines.runner.Runner` for what it promises.

    choice: dtype of linear layers; all else is fp32. The decoder's layers are changed to it.
    deterministic: one block of one context and one candidate a pass, so that a score has the same
    bits whatever else is scored or cached. vectors: as `new_cpu_runner` says.
    """

    def __init__(
        self,
        decoder: Decoder,
        heads: Sequence[HeadOutputs],
        block_size: int,
        cache_bytes: int,
        choice: CpuChoice = IN_FP32,
        deterministic: bool = False,
        vectors: Tensor | None = None,
    ) -> None:
        self._block_size = block_size
        self._decoder = decoder
        self._heads = ScoringHeads.of(decoder, heads)
        self._label_mass = LabelMass(decoder, heads)
        narrow_linears(decoder.model, choice.torch_dtype)
        extend_embedding(decoder, vectors)
        self._stored_tokens = 0 if vectors is None else len(vectors)
        self._cache = PrefixCache(cache_bytes)
        self._choice = choice
        self._deterministic = deterministic

    @classmethod
    def from_directory(cls, directory: ModelDirectory, cache_bytes: int) -> PackedRunner:
        """In fp32; ModelDirectoryError as `load_decoder` says."""
        heads, block_size = directory.prompt.heads, directory.card.block_size
        return cls(load_decoder(directory), heads, block_size, cache_bytes)

    @property
    def block_size(self) -> int:
        return self._block_size

    @property
    def config(self) -> DecoderConfig:
        return self._decoder.config

    @property
    def stored_tokens(self) -> int:
        return self._stored_tokens

    @property
    def description(self) -> Mapping[str, str]:
        return self._choice.description

    @torch.inference_mode()
    def run(self, groups: Sequence[ContextGroup]) -> list[GroupScores]:
        contexts = [self._look_up(group) for group in groups]
        with ExitStack() as pins:
            for context in contexts:
                held = context.group.chain[: context.held_blocks]
                pins.enter_context(self._cache.pinned(held))
            self._extend(contexts)
        raw_logits = iter(self._score_candidates(contexts))
        return [
            GroupScores(c.cached_tokens, [next(raw_logits) for _ in c.group.candidates])
            for c in contexts
        ]

    def drain_label_mass(self) -> tuple[float, ...]:
        return self._label_mass.drain()

    def drain_cache_events(self) -> CacheEvents:
        return self._cache.drain_events()

    def _look_up(self, group: ContextGroup) -> _Context:
        """Reads what the cache holds of the context."""
        held = self._cache.match(group.chain)
        cached = min(held * self._block_size, len(group.ids))
        return _Context(group, held, cached, self._cache.read(group.chain[:held]))

    def _extend(self, contexts: Sequence[_Context]) -> None:
        """Computes the missing tokens of all contexts, pass by pass, and keeps what fits."""
        while parts := self._missing(contexts):
            batch = pack([PrefixGroup(c.known_tokens, [ids]) for c, ids in parts])
            computed = self._keys_values(batch, self._prefixes([c for c, _ in parts]))
            bounds = pairwise(batch.layout.cu_queries)
            for (context, _), (start, stop) in zip(parts, bounds, strict=True):
                context.keys_values += torch.split(computed[:, :, start:stop], self._block_size, 2)
        for context in contexts:
            if fresh := context.keys_values[context.held_blocks :]:
                self._cache.insert(context.group.chain, fresh)

    def _missing(self, contexts: Sequence[_Context]) -> list[tuple[_Context, TokenIds]]:
        """What the next pass computes: whole blocks of contexts, but for their ends."""
        parts: list[tuple[_Context, TokenIds]] = []
        room = self._block_size if self._deterministic else PASS_TOKENS
        for context in contexts:
            most = max(room - room % self._block_size, 0 if parts else self._block_size)
            if ids := context.group.ids[context.known_tokens :][:most]:
                parts.append((context, ids))
                room = max(0, room - len(ids)) if not self._deterministic else 0
        return parts

    def _score_candidates(self, contexts: Sequence[_Context]) -> list[list[float]]:
        """Raw logits of all candidates by head, contexts and their candidates in order."""
        logits: list[list[float]] = []
        for part in self._candidate_passes(contexts):
            batch = pack([PrefixGroup(len(c.group.ids), items) for c, items in part])
            attention = _PrefixAttention(self._prefixes([c for c, _ in part]), batch.layout)
            hidden = self._decoder(batch.token_ids, batch.positions, attention, batch.last_tokens)
            self._label_mass.observe(hidden)
            logits += raw_logits_by_block(self._heads, hidden).tolist()
        return logits

    def _candidate_passes(
        self, contexts: Sequence[_Context]
    ) -> Iterator[list[tuple[_Context, list[TokenIds]]]]:
        """Candidates by context, at most PASS_TOKENS tokens at a time, or one that has more."""
        part: list[tuple[_Context, list[TokenIds]]] = []
        tokens = 0
        for context in contexts:
            for ids in context.group.candidates:
                if part and (self._deterministic or tokens + len(ids) > PASS_TOKENS):
                    yield part
                    part, tokens = [], 0
                if not part or part[-1][0] is not context:
                    part.append((context, []))
                part[-1][1].append(ids)
                tokens += len(ids)
        if part:
            yield part

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
