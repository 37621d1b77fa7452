"""Attention of items that share a prefix and never see each other. Knows nothing of slates.

An item is a run of tokens; consecutive items with one prefix form a group. For query i of an item:

    out[i] = softmax(q[i] . [K_prefix, K_own[: i + 1]] / sqrt(d)) [V_prefix, V_own[: i + 1]]

The prefix part and the own part are computed apart, so that neither copies the other's keys, and
merged by their log-sum-exps l_p and l_o: out = out_o + sigmoid(l_p - l_o) (out_p - out_o).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

BUCKET_TOKENS = 32  # items are padded to multiples of this, for the own part only


@dataclass(frozen=True, slots=True)
class OwnBucket:
    """Items of similar length, padded to one rectangle: the token each cell holds, (items, L)."""

    tokens: Tensor


@dataclass(frozen=True, slots=True)
class ItemLayout:
    """Who sees whom in T packed tokens; made once for a batch, used in every layer."""

    cu_seqlens: tuple[int, ...]  # token bounds of the items, 0 to T
    cu_queries: tuple[int, ...]  # token bounds of the groups, 0 to T
    cu_prefixes: tuple[int, ...]  # bounds of the groups' prefixes among the packed prefix tokens
    buckets: tuple[OwnBucket, ...]
    cells: Tensor  # (T,) cell of each token among the flattened buckets


def item_layout(
    cu_seqlens: Sequence[int], cu_queries: Sequence[int], cu_prefixes: Sequence[int]
) -> ItemLayout:
    """Sorts items into buckets of padded length, so one long item does not pad all the others."""
    members: dict[int, list[tuple[int, int]]] = {}
    for start, stop in pairwise(cu_seqlens):
        width = math.ceil((stop - start) / BUCKET_TOKENS)
        members.setdefault(width, []).append((start, stop))
    buckets, cells, first_cell = [], torch.empty(cu_seqlens[-1], dtype=torch.int64), 0
    for items in members.values():
        bounds = torch.tensor(items)
        starts, lengths = bounds[:, :1], bounds[:, 1:] - bounds[:, :1]
        offsets = torch.arange(int(lengths.max()))
        # A padded cell repeats the item's last token: valid to read, and causally seen by none.
        tokens = starts + torch.minimum(offsets, lengths - 1)
        inside = offsets < lengths
        cells[tokens[inside]] = first_cell + inside.flatten().nonzero().squeeze(1)
        first_cell += tokens.numel()
        buckets.append(OwnBucket(tokens))
    return ItemLayout(
        tuple(cu_seqlens), tuple(cu_queries), tuple(cu_prefixes), tuple(buckets), cells
    )


def multi_item_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor, layout: ItemLayout
) -> Tensor:
    """The formula query by query; shapes as in `multi_item_attention`."""
    outputs = []
    groups = list(zip(pairwise(layout.cu_queries), pairwise(layout.cu_prefixes), strict=True))
    for start, stop in pairwise(layout.cu_seqlens):
        first, last = next(p for (lo, hi), p in groups if lo <= start < hi)
        for i in range(start, stop):
            keys = torch.cat((prefix_k[first:last], k[start : i + 1])).transpose(0, 1)
            values = torch.cat((prefix_v[first:last], v[start : i + 1])).transpose(0, 1)
            queries = q[i].view(k.shape[1], -1, q.shape[-1])  # (kv_heads, group, head_dim)
            weights = (queries @ keys.mT / math.sqrt(q.shape[-1])).softmax(dim=-1)
            outputs.append((weights @ values).flatten(0, 1))
    return torch.stack(outputs)


def multi_item_attention(
    q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor, layout: ItemLayout
) -> Tensor:
    """q (T, heads, d), k and v (T, kv_heads, d), prefix_k and prefix_v (P, kv_heads, d).

    Query head h reads key head h // (heads / kv_heads). Every item holds at least one token; a
    group's prefix may be empty. Returns (T, heads, d).
    """
    own, own_lse = _own_part(q, k, v, layout)
    if layout.cu_prefixes[-1] == 0:
        return own
    shared, shared_lse = _prefix_part(q, prefix_k, prefix_v, layout)
    weight = torch.sigmoid(shared_lse - own_lse).unsqueeze(-1)
    return own.lerp_(shared, weight.to(own.dtype))  # in place: fresh memory costs more than the sum


def _own_part(q: Tensor, k: Tensor, v: Tensor, layout: ItemLayout) -> tuple[Tensor, Tensor]:
    """Causal attention inside each item: (T, heads, d) and log-sum-exps (T, heads)."""
    outputs, lses = [], []
    for bucket in layout.buckets:
        output, lse = _attend(*(_rectangle(x, bucket) for x in (q, k, v)), causal=True)
        outputs.append(output.transpose(1, 2).flatten(0, 1))
        lses.append(lse.transpose(1, 2).flatten(0, 1))
    cells = layout.cells
    return torch.cat(outputs).index_select(0, cells), torch.cat(lses).index_select(0, cells)


def _rectangle(x: Tensor, bucket: OwnBucket) -> Tensor:
    """(T, heads, d) to (items, heads, L, d)."""
    padded = x.index_select(0, bucket.tokens.flatten())
    return padded.view(*bucket.tokens.shape, *x.shape[1:]).transpose(1, 2)


def _prefix_part(q: Tensor, k: Tensor, v: Tensor, layout: ItemLayout) -> tuple[Tensor, Tensor]:
    """Unmasked attention of each group to its prefix; an empty prefix weighs nothing.

    The flash operator divides by the numbers of queries and keys, so it never sees none.
    """
    outputs, lses = [], []
    for (start, stop), (first, last) in zip(
        pairwise(layout.cu_queries), pairwise(layout.cu_prefixes), strict=True
    ):
        queries = q[start:stop]
        if start == stop or first == last:
            outputs.append(torch.zeros_like(queries))
            lses.append(queries.new_full(queries.shape[:2], -math.inf, dtype=torch.float32))
            continue
        keys, values = k[first:last].transpose(0, 1)[None], v[first:last].transpose(0, 1)[None]
        output, lse = _attend(queries.transpose(0, 1)[None], keys, values, causal=False)
        outputs.append(output[0].transpose(0, 1))
        lses.append(lse[0].transpose(0, 1))
    return torch.cat(outputs), torch.cat(lses)


def _attend(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
    """(B, heads, L, d) against (B, kv_heads, S, d): output and log-sum-exp (B, heads, L)."""
    if q.device.type == "cpu":
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        output, lse = flash(q, k, v, is_causal=causal)
        return output, lse
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = (q @ k.mT).float() / math.sqrt(q.shape[-1])
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    return scores.softmax(dim=-1).to(v.dtype) @ v, scores.logsumexp(dim=-1)
