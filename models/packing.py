"""Packs token runs that share prefixes into one flat row of tokens. Knows no model and no cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

import torch
from torch import Tensor

from kernels.multi_item_attention import ItemLayout, item_layout

TokenIds = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PrefixGroup:
    """Items that follow the same `prefix_tokens` tokens, each at least one token long."""

    prefix_tokens: int
    items: Sequence[TokenIds]


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """T tokens of all items of all groups, in order."""

    token_ids: Tensor  # (T,) int64
    positions: Tensor  # (T,) int64: every item starts where its prefix ends
    last_tokens: Tensor  # (items,) int64: row of each item's last token
    layout: ItemLayout


def pack(groups: Sequence[PrefixGroup]) -> PackedBatch:
    """Lays the groups out one after another; there is at least one item."""
    items = [item for group in groups for item in group.items]
    starts = [group.prefix_tokens for group in groups for _ in group.items]
    positions = [range(start, start + len(item)) for start, item in zip(starts, items, strict=True)]
    cu_seqlens = _bounds([len(item) for item in items])
    layout = item_layout(
        cu_seqlens,
        cu_queries=_bounds([sum(map(len, group.items)) for group in groups]),
        cu_prefixes=_bounds([group.prefix_tokens for group in groups]),
    )
    return PackedBatch(
        token_ids=torch.tensor(list(chain.from_iterable(items))),
        positions=torch.tensor(list(chain.from_iterable(positions))),
        last_tokens=torch.tensor(cu_seqlens[1:]) - 1,
        layout=layout,
    )


def _bounds(lengths: Sequence[int]) -> list[int]:
    """Cumulative sum from 0: run i is [bounds[i], bounds[i + 1])."""
    return list(accumulate(lengths, initial=0))
