"""Attention of packed items to a prefix in pages and to themselves. Knows nothing of caches.

For query i of an item that follows a prefix (`kernels.attention.paged_layout` tells which):

    out[i] = softmax(q[i] . [K_prefix, K_own[: i + 1]] / sqrt(d)) [V_prefix, V_own[: i + 1]]

Candidates that share a context are items of one group; a context of which a part is cached is an
item whose prefix is that part. One launch moves q, k, v and out once and the prefix once for each
tile of tokens; the programs of one group find it in L2. fp32, bf16 or fp16; sums are fp32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.attention.paged_attention_kernel import launch_paged_attention
from kernels.attention.paged_attention_tiles import MAX_ROWS, power_of_two, tile_tokens
from kernels.attention.paged_layout import LAYOUT_FIELDS, PagedLayout
from kernels.base.checks import (
    check_dtype,
    check_output,
    check_same_device,
    check_same_dtype,
    check_shape,
)
from kernels.base.checks import rows_contiguous as _rows_contiguous
from kernels.base.dispatch import choose_backend
from kernels.base.variant import Cost

__all__ = ["cost", "paged_attention", "paged_attention_reference", "tile_tokens"]

HEAD_DIMS = (16, 32, 64, 128)


def paged_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, key_pages: Tensor, value_pages: Tensor, layout: PagedLayout
) -> Tensor:
    """The formula tile by tile in plain torch; tokens in no tile get zeros."""
    out = torch.zeros_like(q)
    prefixes = list(zip(layout.page_offsets.tolist(), layout.prefix_lengths.tolist(), strict=True))
    tiles = (layout.tile_groups, layout.tile_starts, layout.tile_stops)
    for group, first, last in zip(*(column.tolist() for column in tiles), strict=True):
        if first == last:
            continue
        offset, length = prefixes[group]
        pages = layout.page_ids[offset : offset + -(-length // key_pages.shape[1])].long()
        own = int(layout.item_starts[first])
        keys, values = (
            torch.cat((pool[pages].flatten(0, 1)[:length], x[own:last]))
            for pool, x in ((key_pages, k), (value_pages, v))
        )
        hidden = _hidden_keys(layout.item_starts[first:last, None].long(), first, own, length)
        out[first:last] = _attend(q[first:last], keys, values, hidden)
    return out


def _hidden_keys(item_starts: Tensor, first: int, own: int, length: int) -> Tensor:
    """(tokens, prefix + own keys): True where a query does not see a key."""
    last = first + len(item_starts)
    queries = torch.arange(first, last, device=item_starts.device)[:, None]
    keys = torch.arange(own, last, device=item_starts.device)
    hidden = (keys > queries) | (keys < item_starts)
    return torch.cat((hidden.new_zeros(len(hidden), length), hidden), dim=1)


def _attend(q: Tensor, keys: Tensor, values: Tensor, hidden: Tensor) -> Tensor:
    """(L, heads, d) against (S, kv_heads, d); sums in fp32, or in fp64 for operands of fp64."""
    wide = torch.promote_types(q.dtype, torch.float32)
    heads = q.to(wide).reshape(len(q), keys.shape[1], -1, q.shape[-1])
    scores = torch.einsum("lhgd,shd->hgls", heads, keys.to(wide)) / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(hidden, -math.inf).softmax(dim=-1)
    return torch.einsum("hgls,shd->lhgd", weights, values.to(wide)).flatten(1, 2).to(q.dtype)


def paged_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    layout: PagedLayout,
    *,
    tile_tokens: int,
    backend: str = "auto",
    out: Tensor | None = None,
) -> Tensor:
    """Attention (T, heads, d) of q (T, heads, d) and k, v (T, kv_heads, d) under `layout`.

    key_pages, value_pages: (pages, page_size, kv_heads, d), views of one form into the pool, of
    which layout.page_ids names pages. Query head h reads key head h // (heads / kv_heads); d is 16,
    32, 64 or 128. No tile of the layout is longer than `tile_tokens`, best taken from the function
    of that name; tokens in no tile are left unwritten. fp32, bf16 or fp16, one for all, sums are
    fp32. Raises ValueError or TypeError naming the operand, BackendUnavailableError as
    `choose_backend` does.
    """
    _check(q, k, v, key_pages, value_pages, layout)
    _check_heads(q, k, tile_tokens)
    if out is None:
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
    check_output("out", out, q, q.shape)
    if choose_backend(backend, q) == "torch":
        return out.copy_(paged_attention_reference(q, k, v, key_pages, value_pages, layout))
    launch_paged_attention(
        out,
        *map(_rows_contiguous, (q, k, v)),
        key_pages,
        value_pages,
        *(getattr(layout, name) for name in LAYOUT_FIELDS),
        tile_tokens,
    )
    return out


def _check(
    q: Tensor, k: Tensor, v: Tensor, key_pages: Tensor, value_pages: Tensor, layout: PagedLayout
) -> None:
    check_shape("q", q, (layout.item_starts.shape[0], "heads", "head_dim"))
    check_shape("k", k, (q.shape[0], "kv_heads", q.shape[2]))
    check_shape("v", v, k.shape)
    check_shape("key_pages", key_pages, ("pages", "page_size", *k.shape[1:]))
    check_shape("value_pages", value_pages, key_pages.shape)
    check_dtype("q", q)
    check_same_dtype(q=q, k=k, v=v, key_pages=key_pages, value_pages=value_pages)
    check_same_device(q=q, k=k, v=v, key_pages=key_pages, value_pages=value_pages)
    for name in LAYOUT_FIELDS:
        check_dtype(f"layout.{name}", getattr(layout, name), (torch.int32,))
        check_same_device(**{"q": q, f"layout.{name}": getattr(layout, name)})
    check_shape("layout.tile_stops", layout.tile_stops, layout.tile_starts.shape)
    check_shape("layout.tile_groups", layout.tile_groups, layout.tile_starts.shape)
    check_shape("layout.page_offsets", layout.page_offsets, layout.prefix_lengths.shape)
    if key_pages.stride() != value_pages.stride() or key_pages.stride(-1) != 1:
        raise ValueError(
            f"key_pages and value_pages have strides {key_pages.stride()} and "
            f"{value_pages.stride()}; they must be equal and end in 1"
        )


def _check_heads(q: Tensor, k: Tensor, tile_tokens: int) -> None:
    heads, kv_heads = q.shape[1], k.shape[1]
    if kv_heads == 0 or heads % kv_heads != 0:
        raise ValueError(f"q has {heads} heads; it must be a multiple of k's {kv_heads}")
    if q.shape[2] not in HEAD_DIMS:
        raise ValueError(f"q has head_dim {q.shape[2]}; it must be one of {HEAD_DIMS}")
    most = MAX_ROWS // power_of_two(heads // kv_heads)
    if not 1 <= tile_tokens <= most or tile_tokens & (tile_tokens - 1):
        raise ValueError(f"tile_tokens is {tile_tokens}; pass a power of two from 1 to {most}")


def cost(q: Tensor, k: Tensor, layout: PagedLayout) -> Cost:
    """Own operands and result once, each group's prefix once; two products of what is seen."""
    starts = layout.item_starts.to(torch.int64)
    own = int((torch.arange(len(starts), device=starts.device) - starts + 1).sum())
    tokens = layout.tile_stops - layout.tile_starts
    prefixes = int(layout.prefix_lengths.sum())
    seen = own + int((layout.prefix_lengths[layout.tile_groups] * tokens).sum())
    row = k.shape[1] * k.shape[2] * k.element_size()
    return Cost(
        2 * q.nbytes + 2 * k.nbytes + 2 * prefixes * row, 4 * seen * q.shape[1] * q.shape[2]
    )
