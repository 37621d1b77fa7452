"""The native scorer: contexts once through a prefix cache, all candidates in one packed pass.

Knows nothing of queues, tenants, text or calibration.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from kernels.multi_item_attention import ItemLayout, multi_item_attention
from models.allocator import keep_freed_memory
from models.checkpoint import ModelDirectory, load_decoder
from models.engines.base import CacheEvents, JobScores, ScoreJob
from models.heads import LabelHead
from models.packing import PackedBatch, PrefixGroup, TokenIds, pack
from models.prefix_cache import PrefixCache


@dataclass(slots=True)
class _Context:
    """One distinct context of a batch and the jobs that share it."""

    ids: TokenIds
    chain: tuple[str, ...]
    held_blocks: int
    cached_tokens: int
    jobs: list[int] = field(default_factory=list)
    keys_values: list[Tensor] = field(default_factory=list)  # (layers, 2, tokens, kv_heads, d) each


class FairslateEngine:
    """Engine over one model directory; see `models.engines.base.Engine` for what it promises.

    cache_bytes: budget of the prefix cache. threads: of torch in this process, None leaves it.
    device: "cpu" or "cuda"; RuntimeError when torch has no such device here.
    """

    def __init__(
        self,
        directory: ModelDirectory,
        cache_bytes: int,
        threads: int | None = None,
        device: str = "cpu",
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        keep_freed_memory()
        self._block_size = directory.card.block_size
        self._device = torch.device(device)
        self._decoder = load_decoder(directory).to(self._device)
        self._head = LabelHead.from_decoder(self._decoder, directory.prompt.label_ids)
        self._cache = PrefixCache(cache_bytes)

    @property
    def block_size(self) -> int:
        return self._block_size

    @torch.inference_mode()
    def score(self, jobs: Sequence[ScoreJob]) -> list[JobScores]:
        with self._tensors_on_device():
            contexts = self._look_up(jobs)
            with ExitStack() as pins:
                for context in contexts:
                    pins.enter_context(self._cache.pinned(context.chain[: context.held_blocks]))
                self._extend([c for c in contexts if c.cached_tokens < len(c.ids)])
            raw_logits = self._score_candidates(jobs, contexts)
        return _answers(jobs, contexts, raw_logits)

    def drain_cache_events(self) -> CacheEvents:
        return self._cache.drain_events()

    def _tensors_on_device(self) -> AbstractContextManager[object]:
        """New tensors go to the device; on the CPU they do anyway, without a hook on every call."""
        return nullcontext() if self._device.type == "cpu" else self._device

    def _look_up(self, jobs: Sequence[ScoreJob]) -> list[_Context]:
        """Groups the jobs by context and reads what the cache holds of each."""
        contexts: dict[tuple[str, ...], _Context] = {}
        for index, job in enumerate(jobs):
            chain = job.block_hashes
            if chain not in contexts:
                held = self._cache.match(chain)
                cached = min(held * self._block_size, len(job.context_ids))
                contexts[chain] = _Context(job.context_ids, chain, held, cached)
                contexts[chain].keys_values += self._cache.read(chain[:held])
            contexts[chain].jobs.append(index)
        return list(contexts.values())

    def _extend(self, contexts: Sequence[_Context]) -> None:
        """Computes the missing tokens of all contexts in one pass, and keeps what fits."""
        if not contexts:
            return
        missing = [c.ids[c.cached_tokens :] for c in contexts]
        batch = pack(
            [PrefixGroup(c.cached_tokens, [ids]) for c, ids in zip(contexts, missing, strict=True)]
        )
        computed = self._keys_values(batch, self._prefixes(contexts))
        for context, (start, stop) in zip(contexts, pairwise(batch.layout.cu_queries), strict=True):
            blocks = torch.split(computed[:, :, start:stop], self._block_size, dim=2)
            context.keys_values += blocks
            self._cache.insert(context.chain, blocks)

    def _score_candidates(
        self, jobs: Sequence[ScoreJob], contexts: Sequence[_Context]
    ) -> list[float]:
        """Raw logits of all candidates, contexts and their jobs in order."""
        # Equal candidates of one context are one item: they tie exactly, wherever they stand.
        distinct = [
            list(dict.fromkeys(ids for job in c.jobs for ids in jobs[job].candidates))
            for c in contexts
        ]
        groups = [PrefixGroup(len(c.ids), ids) for c, ids in zip(contexts, distinct, strict=True)]
        if not any(group.items for group in groups):
            return []
        batch = pack(groups)
        attention = _PrefixAttention(self._prefixes(contexts), batch.layout)
        hidden = self._decoder(batch.token_ids, batch.positions, attention, batch.last_tokens)
        logits = iter(self._head.raw_logits(hidden).tolist())
        scored = [dict(zip(items, logits, strict=False)) for items in distinct]
        return [
            found[ids]
            for c, found in zip(contexts, scored, strict=True)
            for job in c.jobs
            for ids in jobs[job].candidates
        ]

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


def _answers(
    jobs: Sequence[ScoreJob], contexts: Sequence[_Context], raw_logits: Sequence[float]
) -> list[JobScores]:
    """Deals the logits back to their jobs; a context's first job pays for what was computed."""
    answers: dict[int, JobScores] = {}
    logits = iter(raw_logits)
    for context in contexts:
        cached = context.cached_tokens
        for index in context.jobs:
            candidates = jobs[index].candidates
            answers[index] = JobScores(
                raw_logits=tuple(next(logits) for _ in candidates),
                context_tokens=len(context.ids),
                cached_tokens=cached,
                candidate_tokens=sum(map(len, candidates)),
            )
            cached = len(context.ids)
    return [answers[index] for index in range(len(jobs))]
