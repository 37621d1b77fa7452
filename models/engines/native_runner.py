"""The runner of a CPU with AVX-512: contexts in pages, whole passes in C++.

Attention reads the pages where they lie, so a held context costs no copy. A candidate's score has
the same bits alone, in any slot, in any batch, cold or warm.
Knows nothing of queues, tenants, text or calibration.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.config import DecoderConfig
from models.decoder import Decoder
from models.engines.base import CacheEvents
from models.engines.cpu_decoder import NativeDecoder, NativePages
from models.engines.cpu_probe import CpuChoice
from models.engines.group_plan import plan_group
from models.engines.head_rows import raw_logits_by_block
from models.engines.paged_cache import PagedCache, PageShape
from models.engines.passes import PassPlanner, PassSize, Segment
from models.engines.runner import ContextGroup, GroupScores
from models.head_card import HeadOutputs
from models.heads import ScoringHeads
from models.label_mass import LabelMass
from models.native.library import NativeLibrary

# Activations of more tokens than that would cost memory and gain no speed.
PASS_LIMITS = PassSize(tokens=4096, items=sys.maxsize, groups=sys.maxsize, pages=sys.maxsize)


@dataclass(frozen=True, slots=True)
class NativeSettings:
    """How a model is run.

    choice: dtype of linear layers, and why. threads: of one pass.
    max_context_tokens: longer contexts are refused; as much memory is spare beside the cache.
    """

    choice: CpuChoice
    block_size: int
    max_context_tokens: int
    threads: int


class NativeRunner:
    """Runner in C++; see `models.engines.runner.Runner` for what it promises.

    Where linear layers are narrow the decoder's embeddings are changed to bf16.
    """

    def __init__(
        self,
        decoder: Decoder,
        heads: Sequence[HeadOutputs],
        cache_bytes: int,
        library: NativeLibrary,
        settings: NativeSettings,
        vectors: Tensor | None = None,
    ) -> None:
        config, page_size = decoder.config, settings.block_size
        self._block_size = page_size
        self._settings = settings
        self._heads = ScoringHeads.of(decoder, heads)
        if settings.choice.torch_dtype != torch.float32:
            _narrow_embeddings(decoder)  # behind the heads, whose rows stay as exact as they are
        self._label_mass = LabelMass(decoder, heads)
        self._decoder = NativeDecoder(
            decoder, settings.choice.torch_dtype, library, settings.threads, vectors
        )
        kv_heads, width = config.num_key_value_heads, self._decoder.head_dim
        self._cache = PagedCache(
            PageShape(config.num_hidden_layers, page_size, kv_heads, width),
            cache_bytes,
            -(-settings.max_context_tokens // page_size),
            self._decoder.page_dtype,
        )
        self._pages = NativePages(self._cache.keys, self._cache.values, page_size)

    @property
    def block_size(self) -> int:
        return self._block_size

    @property
    def config(self) -> DecoderConfig:
        return self._decoder.config

    @property
    def stored_tokens(self) -> int:
        return self._decoder.stored_tokens

    @property
    def description(self) -> Mapping[str, str]:
        features = " ".join(self._decoder.features)
        threads = str(self._settings.threads)
        return {**self._settings.choice.description, "threads": threads, "features": features}

    @torch.inference_mode()
    def run(self, groups: Sequence[ContextGroup]) -> list[GroupScores]:
        rows: list[list[float]] = []
        planner = PassPlanner(PASS_LIMITS, lambda segments, _: rows.extend(self._pass(segments)))
        with self._cache.reservation([group.chain for group in groups]) as reservation:
            cached = [plan_group(one, planner, reservation, self._block_size) for one in groups]
            planner.flush()
        logits = iter(rows)
        return [
            GroupScores(count, [next(logits) for _ in group.candidates])
            for group, count in zip(groups, cached, strict=True)
        ]

    def drain_label_mass(self) -> tuple[float, ...]:
        return self._label_mass.drain()

    def drain_cache_events(self) -> CacheEvents:
        return self._cache.drain_events()

    def _pass(self, segments: Sequence[Segment]) -> list[list[float]]:
        """Raw logits of the candidates in order; contexts are computed before them."""
        hidden = self._decoder(sorted(segments, key=lambda s: not s.kept), self._pages)
        self._label_mass.observe(hidden)
        logits: list[list[float]] = raw_logits_by_block(self._heads, hidden).tolist()
        return logits


def _narrow_embeddings(decoder: Decoder) -> None:
    """They are the largest tensors of a small model, and held once: for tokens and label mass."""
    for module in (decoder.model.embed_tokens, getattr(decoder, "lm_head", None)):
        if module is not None:
            module.weight = nn.Parameter(module.weight.bfloat16(), requires_grad=False)
