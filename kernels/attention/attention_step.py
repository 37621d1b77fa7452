"""One step of attention: a tile of keys is loaded from pages, and weighed. Knows no layout.

Device functions for use inside kernels.
"""

from __future__ import annotations

from kernels.base.dispatch import jit, tl

__all__ = [
    "attend_to_last",
    "attend_to_tile",
    "bounds_of",
    "load_prefix",
    "page_of",
    "rows_of",
    "starts_of",
]


@jit
def attend_to_tile(
    total: tl.tensor,
    largest: tl.tensor,
    mixed: tl.tensor,
    scores: tl.tensor,
    values: tl.tensor,
    scale: float,
    PRECISION: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """One step of the online softmax in base 2: sums so far, rescaled to the new largest score.

    `scores` come unscaled: scaling and subtracting are one instruction.
    """
    new_largest = tl.maximum(largest, tl.max(scores, axis=1) * scale)
    weights = tl.exp2(scores * scale - new_largest[:, None])
    rescale = tl.exp2(largest - new_largest)
    total = total * rescale + tl.sum(weights, axis=1)
    mixed = mixed * rescale[:, None]
    mixed = tl.dot(weights.to(values.dtype), values, mixed, input_precision=PRECISION)
    return total, new_largest, mixed


@jit
def page_of(
    pages: tl.tensor, keys: tl.tensor, length: tl.tensor, PAGE_SIZE: tl.constexpr, FAR: tl.constexpr
) -> tl.tensor:
    """The page each key of a prefix lies in; `FAR` when the pool goes beyond 2^31 values."""
    page = tl.load(pages + keys // PAGE_SIZE, keys < length, 0)
    return page.to(tl.int64) if FAR else page


@jit
def load_prefix(
    keys_at: tl.tensor,
    values_at: tl.tensor,
    page: tl.tensor,
    slots: tl.tensor,
    page_stride: int,
    slot_stride: int,
    inside: tl.tensor,
) -> tuple[tl.tensor, tl.tensor]:
    """Keys and values in these slots of pages; pointers are to a head's columns of page 0."""
    cells = (page * page_stride + slots * slot_stride)[:, None]
    k = tl.load(keys_at + cells, inside[:, None], 0.0)
    return k, tl.load(values_at + cells, inside[:, None], 0.0)


@jit
def bounds_of(
    tile_starts_ptr: tl.tensor, tile_stops_ptr: tl.tensor, tile: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    """Tokens of a tile, read anew at each call."""
    first = tl.load(tile_starts_ptr + tile, volatile=True)
    return first, tl.load(tile_stops_ptr + tile, volatile=True)


@jit
def rows_of(
    first: tl.tensor,
    last: tl.tensor,
    rows: tl.tensor,
    kv_head: tl.tensor,
    GROUP: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Each row's token and query head, and whether it is in the tile."""
    tokens = first + rows // GROUP_ROWS
    head = rows % GROUP_ROWS
    in_tile = (tokens < last) & (head < GROUP)
    head = kv_head * GROUP + head
    return tokens, head, in_tile


@jit
def starts_of(item_starts_ptr: tl.tensor, tokens: tl.tensor, in_tile: tl.tensor) -> tl.tensor:
    """Where each row's item starts; behind all keys for a row outside the tile: it sees none."""
    return tl.load(item_starts_ptr + tokens, in_tile, 0x7FFFFFFF)


@jit
def attend_to_last(
    total: tl.tensor,
    largest: tl.tensor,
    mixed: tl.tensor,
    q: tl.tensor,
    keys_at: tl.tensor,
    values_at: tl.tensor,
    pages: tl.tensor,
    start: tl.tensor,
    lanes: tl.tensor,
    length: tl.tensor,
    page_stride: int,
    slot_stride: int,
    scale: float,
    PAGE_SIZE: tl.constexpr,
    FAR: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """The step that begins at key `start` of a prefix and goes beyond its end."""
    keys = start + lanes
    inside = keys < length
    page = page_of(pages, keys, length, PAGE_SIZE, FAR)
    slots = keys % PAGE_SIZE
    k, v = load_prefix(keys_at, values_at, page, slots, page_stride, slot_stride, inside)
    if INTERPRETED:
        k, v = k.to(tl.float32), v.to(tl.float32)
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    scores = tl.where(inside[None, :], scores, float("-inf"))
    total, largest, mixed = attend_to_tile(total, largest, mixed, scores, v, scale, PRECISION)
    return total, largest, mixed
