"""The runner on torch operations, for any CPU and any model: candidates of many contexts packed.

Knows nothing of queues, tenants, text or calibration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from models.checkpoint import ModelDirectory, load_decoder
from models.config import DecoderConfig
from models.decoder import Decoder
from models.engines.base import CacheEvents
from models.engines.contexts import (
    PASS_TOKENS,
    ContextReader,
    KnownContext,
    PrefixAttention,
    packed_prefixes,
)
from models.engines.cpu_probe import CpuChoice
from models.engines.head_rows import raw_logits_by_block
from models.engines.runner import ContextGroup, GroupScores
from models.extended_embedding import extend_embedding
from models.head_card import HeadOutputs
from models.heads import ScoringHeads
from models.label_mass import LabelMass
from models.linear import narrow_linears
from models.packing import PrefixGroup, TokenIds, pack

IN_FP32 = CpuChoice("float32", "torch", "the plain runner")

_KnownGroup = tuple[KnownContext, ContextGroup]


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
        self._decoder = decoder
        self._heads = ScoringHeads.of(decoder, heads)
        self._label_mass = LabelMass(decoder, heads)
        narrow_linears(decoder.model, choice.torch_dtype)
        extend_embedding(decoder, vectors)
        self._stored_tokens = 0 if vectors is None else len(vectors)
        self._reader = ContextReader(decoder, block_size, cache_bytes, deterministic)
        self._choice = choice
        self._deterministic = deterministic

    @classmethod
    def from_directory(cls, directory: ModelDirectory, cache_bytes: int) -> PackedRunner:
        """In fp32; ModelDirectoryError as `load_decoder` says."""
        heads, block_size = directory.prompt.heads, directory.card.block_size
        return cls(load_decoder(directory), heads, block_size, cache_bytes)

    @property
    def block_size(self) -> int:
        return self._reader.block_size

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
        with self._reader.read([(group.ids, group.chain) for group in groups]) as contexts:
            raw_logits = iter(self._score_candidates(list(zip(contexts, groups, strict=True))))
            return [
                GroupScores(context.cached_tokens, [next(raw_logits) for _ in group.candidates])
                for context, group in zip(contexts, groups, strict=True)
            ]

    def drain_label_mass(self) -> tuple[float, ...]:
        return self._label_mass.drain()

    def drain_cache_events(self) -> CacheEvents:
        return self._reader.drain_cache_events()

    def _score_candidates(self, groups: Sequence[_KnownGroup]) -> list[list[float]]:
        """Raw logits of all candidates by head, contexts and their candidates in order."""
        logits: list[list[float]] = []
        for part in self._candidate_passes(groups):
            batch = pack([PrefixGroup(len(c.ids), items) for c, items in part])
            prefixes = packed_prefixes(self._decoder, [c.keys_values for c, _ in part])
            attention = PrefixAttention(prefixes, batch.layout)
            hidden = self._decoder(batch.token_ids, batch.positions, attention, batch.last_tokens)
            self._label_mass.observe(hidden)
            logits += raw_logits_by_block(self._heads, hidden).tolist()
        return logits

    def _candidate_passes(
        self, groups: Sequence[_KnownGroup]
    ) -> Iterator[list[tuple[KnownContext, list[TokenIds]]]]:
        """Candidates by context, at most PASS_TOKENS tokens at a time, or one that has more."""
        part: list[tuple[KnownContext, list[TokenIds]]] = []
        tokens = 0
        for context, group in groups:
            for ids in group.candidates:
                if part and (self._deterministic or tokens + len(ids) > PASS_TOKENS):
                    yield part
                    part, tokens = [], 0
                if not part or part[-1][0] is not context:
                    part.append((context, []))
                part[-1][1].append(ids)
                tokens += len(ids)
        if part:
            yield part
