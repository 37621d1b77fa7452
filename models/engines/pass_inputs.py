"""Lays one pass out in a single buffer of int32: one copy to the device feeds a whole forward pass.

Knows no weights and no cache; which pages a segment reads and writes it is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.engines.passes import PassSize, Segment

Ints = NDArray[np.int32]
ALIGNMENT = 16  # int32 values: every field starts on its own 64 bytes
NOT_KEPT = -1


@dataclass(frozen=True, slots=True)
class PassShape:
    """Sizes of one bucket; a pass fills what it needs and the rest is padding."""

    tokens: int
    items: int  # segments that are scored
    groups: int
    pages: int  # of all groups together
    tile_tokens: int

    @property
    def limits(self) -> PassSize:
        """The most a pass of this shape takes."""
        return PassSize(self.tokens, self.items, self.groups, self.pages)

    @property
    def tiles(self) -> int:
        """Enough for any such pass: only a group's last tile may be short."""
        return -(-self.tokens // self.tile_tokens) + self.groups

    @property
    def field_sizes(self) -> tuple[int, ...]:
        """Values of each tensor of PassInputs, in its order."""
        tiles, groups = (self.tiles,) * 3, (self.groups,) * 2
        return (*(self.tokens,) * 4, self.items, *tiles, *groups, self.pages)

    @property
    def buffer_size(self) -> int:
        """Values of the buffer that holds them all."""
        return sum(map(_aligned, self.field_sizes))


@dataclass(frozen=True, slots=True)
class PassInputs:
    """Views of one buffer, int32: filled on the host, read on the device.

    The fields from `item_starts` on, but `last_rows`, are a `PagedLayout` of the kernels.
    """

    token_ids: Tensor  # (tokens,)
    positions: Tensor  # (tokens,)
    slots: Tensor  # (tokens,) cell of the flattened pages that keeps the token, or NOT_KEPT
    item_starts: Tensor  # (tokens,) first row of the token's segment
    last_rows: Tensor  # (items,) last row of each segment that is scored, in order
    tile_starts: Tensor  # (tiles,) a tile is a run of rows of one group, empty if unused
    tile_stops: Tensor  # (tiles,)
    tile_groups: Tensor  # (tiles,)
    prefix_lengths: Tensor  # (groups,) tokens in pages which the group sees
    page_offsets: Tensor  # (groups,) where the group's pages start in page_ids
    page_ids: Tensor  # (pages,)
    tile_tokens: int  # the longest tile

    @classmethod
    def within(cls, buffer: Tensor, shape: PassShape) -> PassInputs:
        """The fields of `shape` in `buffer`, of at least `shape.buffer_size` values."""
        sizes = shape.field_sizes
        starts = accumulate(map(_aligned, sizes), initial=0)
        views = {
            name: buffer[start : start + size]
            for name, start, size in zip(TENSOR_FIELDS, starts, sizes, strict=False)
        }
        return cls(**views, tile_tokens=shape.tile_tokens)


TENSOR_FIELDS = tuple(field.name for field in fields(PassInputs) if field.name != "tile_tokens")


def fill_inputs(inputs: PassInputs, segments: Sequence[Segment], page_size: int) -> int:
    """Writes a pass into host views; returns how many rows are scored.

    Raises OverflowError for a token id beyond int32.
    """
    lengths = np.array([len(segment.ids) for segment in segments], np.int32)
    stops = np.cumsum(lengths, dtype=np.int32)
    starts, total = stops - lengths, int(stops[-1])
    ids = chain.from_iterable(segment.ids for segment in segments)
    _write(inputs.token_ids, np.fromiter(ids, np.int32, total))
    prefixes = np.array([segment.prefix_tokens for segment in segments], np.int32)
    rows = np.arange(total, dtype=np.int32)
    _write(inputs.positions, rows + np.repeat(prefixes - starts, lengths))
    _write(inputs.item_starts, np.repeat(starts, lengths))
    _fill_slots(inputs.slots, segments, starts, page_size)
    scored = stops[[not segment.kept for segment in segments]] - 1
    _write(inputs.last_rows, scored)
    _fill_groups(inputs, segments, starts, total)
    return len(scored)


def _fill_slots(slots: Tensor, segments: Sequence[Segment], starts: Ints, page_size: int) -> None:
    cells = slots.numpy()
    cells.fill(NOT_KEPT)
    for start, segment in zip(starts.tolist(), segments, strict=True):
        if segment.kept:
            count = len(segment.ids)
            places = np.arange(segment.prefix_tokens, segment.prefix_tokens + count)
            pages = np.array(segment.pages, np.int32)[places // page_size]
            cells[start : start + count] = pages * page_size + places % page_size


def _fill_groups(inputs: PassInputs, segments: Sequence[Segment], starts: Ints, total: int) -> None:
    """Lists the pages of every run of segments with one prefix, and cuts it into tiles."""
    firsts = [0]
    for index, (before, segment) in enumerate(pairwise(segments), 1):
        if not segment.shares_prefix(before):
            firsts.append(index)
    groups = [segments[first] for first in firsts]
    prefixes = np.array([group.prefix_tokens for group in groups], np.int32)
    _write(inputs.prefix_lengths, prefixes)
    _fill_tiles(inputs, np.append(starts[firsts], np.int32(total)), prefixes)
    counts = [len(group.pages) for group in groups]
    _write(inputs.page_offsets, list(accumulate(counts[:-1], initial=0)))
    _write(inputs.page_ids, [page for group in groups for page in group.pages])


def _fill_tiles(inputs: PassInputs, bounds: Ints, prefixes: Ints) -> None:
    """Tiles with most keys come first: the last program to start should be a short one."""
    step = inputs.tile_tokens
    counts = -(-np.diff(bounds) // step)
    groups = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    within = np.arange(len(groups)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = bounds[groups] + within * step
    stops = np.minimum(starts + step, bounds[groups + 1])
    keys = prefixes[groups] + stops - inputs.item_starts.numpy()[starts]
    order = np.argsort(-keys, kind="stable")
    _write(inputs.tile_starts, starts[order])
    _write(inputs.tile_stops, stops[order])
    _write(inputs.tile_groups, groups[order])


def _write(field: Tensor, values: NDArray[np.integer[Any]] | Sequence[int]) -> None:
    """Fills the front of a field, zeros behind."""
    cells = field.numpy()
    cells[: len(values)] = values
    cells[len(values) :] = 0


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
