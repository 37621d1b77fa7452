"""Who sees whom in packed tokens whose prefixes lie in pages. Knows nothing of keys and values.

An item is a run of tokens; consecutive items that follow one prefix form a group. The tokens of a
group are cut into tiles across the borders of its items, so that several short items share one
reading of their prefix. All of it is int32, made on the host once for a batch, read in each layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int32]


class PagedLayout(Protocol):
    """What `paged_attention` reads, int32 throughout; a captured CUDA graph reads what lies there.

    A tile is a run of tokens of one group; one that starts where it stops is unused, so that a
    buffer may hold more tiles than a batch needs.
    """

    @property
    def item_starts(self) -> Tensor:
        """(T,) first token of each token's item."""

    @property
    def tile_starts(self) -> Tensor:
        """(tiles,) first token of each tile."""

    @property
    def tile_stops(self) -> Tensor:
        """(tiles,) one past its last token."""

    @property
    def tile_groups(self) -> Tensor:
        """(tiles,) the group it belongs to."""

    @property
    def prefix_lengths(self) -> Tensor:
        """(groups,) tokens of the prefix."""

    @property
    def page_offsets(self) -> Tensor:
        """(groups,) where the group's pages begin in `page_ids`."""

    @property
    def page_ids(self) -> Tensor:
        """(n,) key p of a prefix lies in page page_ids[page_offset + p // page_size]."""


@dataclass(frozen=True, slots=True)
class PagedTiles:
    """A PagedLayout of plain tensors; `to` moves it."""

    item_starts: Tensor
    tile_starts: Tensor
    tile_stops: Tensor
    tile_groups: Tensor
    prefix_lengths: Tensor
    page_offsets: Tensor
    page_ids: Tensor

    def to(self, device: torch.device | str) -> PagedTiles:
        """The same layout on another device."""
        return PagedTiles(*(getattr(self, name).to(device) for name in LAYOUT_FIELDS))


LAYOUT_FIELDS = tuple(field.name for field in fields(PagedTiles))


def paged_layout(
    cu_seqlens: Sequence[int],
    cu_queries: Sequence[int],
    prefix_lengths: Sequence[int],
    pages: Sequence[Sequence[int]],
    tile_tokens: int,
) -> PagedTiles:
    """The layout on the host, in tiles of at most `tile_tokens`.

    cu_seqlens: token bounds of the items, 0 to T; cu_queries: token bounds of the groups, 0 to T,
    each among cu_seqlens; pages: of each group's prefix, in order, enough for its length.
    """
    items, groups = np.asarray(cu_seqlens, np.int32), np.asarray(cu_queries, np.int32)
    prefixes = np.asarray(prefix_lengths, np.int32)
    starts = np.repeat(items[:-1], np.diff(items))
    held = np.array([len(ids) for ids in pages], np.int32)
    layout = (
        starts,
        *_tiles(groups, prefixes, starts, tile_tokens),
        prefixes,
        np.cumsum(held, dtype=np.int32) - held,
        np.array([page for ids in pages for page in ids], np.int32),
    )
    return PagedTiles(*map(torch.from_numpy, layout))


def _tiles(groups: Ints, prefixes: Ints, starts: Ints, tile_tokens: int) -> tuple[Ints, Ints, Ints]:
    """Starts, stops and groups, most keys first: the last program should have little to do."""
    counts = -(-np.diff(groups) // tile_tokens)
    group = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    within = np.arange(len(group), dtype=np.int32) - np.repeat(np.cumsum(counts) - counts, counts)
    first = (groups[group] + within * tile_tokens).astype(np.int32)
    stop = np.minimum(first + tile_tokens, groups[group + 1])
    order = np.argsort(starts[first] - stop - prefixes[group], kind="stable")
    return first[order], stop[order], group[order]
