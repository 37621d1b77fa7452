"""Packed items whose prefixes lie scattered over a pool of pages. Knows no kernel and no cache."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from kernels.attention.paged_layout import PagedTiles, paged_layout
from kernels.multi_item_attention import item_layout, multi_item_attention_reference
from tests.kernels.truth import draw

SPARE_PAGES = 256


@dataclass(frozen=True, slots=True)
class PagedCase:
    """Operands of paged_attention, and the same prefixes packed, as the formula wants them."""

    q: Tensor
    k: Tensor
    v: Tensor
    key_pages: Tensor
    value_pages: Tensor
    layout: PagedTiles
    tile_tokens: int
    prefix_k: Tensor
    prefix_v: Tensor
    bounds: tuple[list[int], list[int], list[int]]  # of items, groups and prefixes

    @property
    def operands(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, PagedTiles]:
        """In the order of paged_attention."""
        return self.q, self.k, self.v, self.key_pages, self.value_pages, self.layout

    def truth(self) -> Tensor:
        """The formula query by query in fp64."""
        q, k, v = self.q.double(), self.k.double(), self.v.double()
        prefix_k, prefix_v = self.prefix_k.double(), self.prefix_v.double()
        layout = item_layout(*self.bounds)
        return multi_item_attention_reference(q, k, v, prefix_k, prefix_v, layout)

    def to(self, target: torch.dtype | str) -> PagedCase:
        """Operands of another dtype or on another device."""
        moved = {
            field.name: value.to(target)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        layout = self.layout if isinstance(target, torch.dtype) else self.layout.to(target)
        return replace(self, **moved, layout=layout)  # type: ignore[arg-type]


def paged_case(
    lengths: Sequence[Sequence[int]],
    prefixes: Sequence[int],
    heads: tuple[int, int, int],
    page_size: int = 16,
    tile_tokens: int = 8,
    seed: int = 0,
) -> PagedCase:
    """`lengths` of the items by group, `heads` (heads, kv_heads, head_dim).

    Pages are dealt at random; what belongs to no prefix is NaN, which spoils all it touches.
    """
    items, groups, behind = _bounds_of(lengths, prefixes)
    query_heads, kv_heads, head_dim = heads
    pages = _deal(prefixes, page_size, seed)
    prefix_k, prefix_v = draw(2, behind[-1], kv_heads, head_dim, seed=seed)
    pool = torch.full((2, sum(map(len, pages)) + 2, page_size, kv_heads, head_dim), math.nan)
    for (first, last), held in zip(pairwise(behind), pages, strict=True):
        for at in range(first, last):
            page, slot = held[(at - first) // page_size], (at - first) % page_size
            pool[0, page, slot], pool[1, page, slot] = prefix_k[at], prefix_v[at]
    k, v = draw(2, items[-1], kv_heads, head_dim, seed=seed + 1)
    return PagedCase(
        q=draw(items[-1], query_heads, head_dim, seed=seed + 2) * 2,
        k=k,
        v=v,
        key_pages=pool[0],
        value_pages=pool[1],
        layout=_with_spare_pages(paged_layout(items, groups, prefixes, pages, tile_tokens)),
        tile_tokens=tile_tokens,
        prefix_k=prefix_k,
        prefix_v=prefix_v,
        bounds=(items, groups, behind),
    )


def _bounds_of(
    lengths: Sequence[Sequence[int]], prefixes: Sequence[int]
) -> tuple[list[int], list[int], list[int]]:
    items = [length for group in lengths for length in group]
    return _bounds(items), _bounds([sum(group) for group in lengths]), _bounds(prefixes)


def _bounds(lengths: Sequence[int]) -> list[int]:
    return list(accumulate(lengths, initial=0))


def _with_spare_pages(layout: PagedTiles) -> PagedTiles:
    """Behind the last page id stand ids of page 0, all NaN: a planted bug may read on."""
    spare = torch.zeros(SPARE_PAGES, dtype=torch.int32)
    return replace(layout, page_ids=torch.cat((layout.page_ids, spare)))


def _deal(prefixes: Sequence[int], page_size: int, seed: int) -> list[list[int]]:
    """Pages of each prefix, out of order."""
    counts = [-(-prefix // page_size) for prefix in prefixes]
    generator = torch.Generator().manual_seed(seed)
    shuffled = (torch.randperm(sum(counts), generator=generator) + 1).tolist()
    return [shuffled[first:last] for first, last in pairwise(_bounds(counts))]
