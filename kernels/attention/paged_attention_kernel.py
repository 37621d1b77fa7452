"""The Triton kernel of paged attention and its launch. Knows nothing of what callers may pass.

A program takes one tile of tokens and one key head, lays the query heads that read it side by side
as rows, and passes the prefix once and the tile's own keys once with an online softmax in fp32.
fp32 operands are multiplied as three TF32 products, which keeps an accuracy of about 1e-6.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from kernels.attention.attention_step import (
    attend_to_last,
    attend_to_tile,
    bounds_of,
    load_prefix,
    page_of,
    rows_of,
    starts_of,
)
from kernels.attention.paged_attention_tiles import MAX_ROWS as MAX_ROWS
from kernels.attention.paged_attention_tiles import SPILLED, WIDE_ROWS, block_sizes
from kernels.attention.paged_layout import LAYOUT_FIELDS
from kernels.base.dispatch import Operator, interpreting, jit, tl
from kernels.base.variant import Variant


@jit
def _paged_attention_kernel(
    out_ptr: tl.tensor,
    out_token_stride: int,
    out_head_stride: int,
    q_ptr: tl.tensor,
    q_token_stride: int,
    q_head_stride: int,
    k_ptr: tl.tensor,
    k_token_stride: int,
    k_head_stride: int,
    v_ptr: tl.tensor,
    v_token_stride: int,
    v_head_stride: int,
    key_pages_ptr: tl.tensor,
    value_pages_ptr: tl.tensor,
    page_stride: int,
    slot_stride: int,
    page_head_stride: int,
    item_starts_ptr: tl.tensor,
    tile_starts_ptr: tl.tensor,
    tile_stops_ptr: tl.tensor,
    tile_groups_ptr: tl.tensor,
    prefix_lengths_ptr: tl.tensor,
    page_offsets_ptr: tl.tensor,
    page_ids_ptr: tl.tensor,
    scale: float,
    PAGE_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    LAST_KEYS: tl.constexpr,
    AHEAD: tl.constexpr,
    LEAN: tl.constexpr,
    FAR: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> None:
    # One program per key head and tile of tokens; row r is query head r % GROUP_ROWS of a token.
    kv_head = tl.program_id(0)
    tile = tl.program_id(1)
    first, last = tl.load(tile_starts_ptr + tile), tl.load(tile_stops_ptr + tile)
    # All of the tile's few numbers are under way before the first is waited for.
    group = tl.load(tile_groups_ptr + tile)
    prefix_length = tl.load(prefix_lengths_ptr + group)
    pages = page_ids_ptr + tl.load(page_offsets_ptr + group)
    if first == last:
        return
    own_start = tl.load(item_starts_ptr + first)
    rows = tl.arange(0, BLOCK_ROWS)
    columns = tl.arange(0, HEAD_DIM)
    tokens, head, in_tile = rows_of(first, last, rows, kv_head, GROUP, GROUP_ROWS)
    # Offsets of tokens are int64, only those within an item are not.
    q_offsets = tokens.to(tl.int64) * q_token_stride + head * q_head_stride
    q = tl.load(q_ptr + q_offsets[:, None] + columns[None, :], in_tile[:, None], 0.0)
    if AHEAD:
        item_starts = starts_of(item_starts_ptr, tokens, in_tile)
    if INTERPRETED:
        q = q.to(tl.float32)

    total = tl.zeros((BLOCK_ROWS,), dtype=tl.float32)
    # Finite, so that a row that has seen no key yet is rescaled by 1 and not by NaN.
    largest = tl.full((BLOCK_ROWS,), -1.0e38, dtype=tl.float32)
    mixed = tl.zeros((BLOCK_ROWS, HEAD_DIM), dtype=tl.float32)

    keys_at = key_pages_ptr + kv_head * page_head_stride + columns[None, :]
    values_at = value_pages_ptr + kv_head * page_head_stride + columns[None, :]
    lanes = tl.arange(0, BLOCK_KEYS)
    if AHEAD:
        page = page_of(pages, lanes, prefix_length, PAGE_SIZE, FAR)
    full = prefix_length // BLOCK_KEYS * BLOCK_KEYS
    for start in range(0, full, BLOCK_KEYS):
        keys = start + lanes
        if not AHEAD:
            page = page_of(pages, keys, full, PAGE_SIZE, FAR)
        slots = keys % PAGE_SIZE
        k, v = load_prefix(keys_at, values_at, page, slots, page_stride, slot_stride, lanes >= 0)
        if AHEAD:
            page = page_of(pages, start + BLOCK_KEYS + lanes, prefix_length, PAGE_SIZE, FAR)
        if INTERPRETED:
            k, v = k.to(tl.float32), v.to(tl.float32)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        total, largest, mixed = attend_to_tile(total, largest, mixed, scores, v, scale, PRECISION)
    if AHEAD:
        if full < prefix_length:
            total, largest, mixed = attend_to_last(
                total, largest, mixed, q, keys_at, values_at, pages, full, lanes, prefix_length,
                page_stride, slot_stride, scale, PAGE_SIZE, FAR, PRECISION, INTERPRETED,
            )  # fmt: skip
    else:  # a loop of one step takes fewer registers than a branch
        lanes = tl.arange(0, LAST_KEYS)
        for start in tl.range(full, prefix_length, LAST_KEYS, num_stages=1):
            total, largest, mixed = attend_to_last(
                total, largest, mixed, q, keys_at, values_at, pages, start, lanes, prefix_length,
                page_stride, slot_stride, scale, PAGE_SIZE, FAR, PRECISION, INTERPRETED,
            )  # fmt: skip

    if LEAN:  # read and computed again, nothing of this waits in registers through the prefix
        first, last = bounds_of(tile_starts_ptr, tile_stops_ptr, tile)
        own_start = tl.load(item_starts_ptr + first, volatile=True)
        tokens, head, in_tile = rows_of(first, last, rows, kv_head, GROUP, GROUP_ROWS)
    if not AHEAD:
        item_starts = starts_of(item_starts_ptr, tokens, in_tile)
    # The first token's item is the earliest in the tile: no row sees a key before it.
    k_ptr += own_start.to(tl.int64) * k_token_stride + kv_head * k_head_stride
    v_ptr += own_start.to(tl.int64) * v_token_stride + kv_head * v_head_stride
    for start in range(0, last - own_start, LAST_KEYS):
        offsets = start + tl.arange(0, LAST_KEYS)
        keys = own_start + offsets
        inside = (keys < last)[:, None]
        k_offsets = offsets[:, None] * k_token_stride + columns[None, :]
        v_offsets = offsets[:, None] * v_token_stride + columns[None, :]
        k, v = tl.load(k_ptr + k_offsets, inside, 0.0), tl.load(v_ptr + v_offsets, inside, 0.0)
        if INTERPRETED:
            k, v = k.to(tl.float32), v.to(tl.float32)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        seen = (keys[None, :] >= item_starts[:, None]) & (keys[None, :] <= tokens[:, None])
        scores = tl.where(seen, scores, float("-inf"))
        total, largest, mixed = attend_to_tile(total, largest, mixed, scores, v, scale, PRECISION)

    if LEAN:
        first, last = bounds_of(tile_starts_ptr, tile_stops_ptr, tile)
        tokens, head, in_tile = rows_of(first, last, rows, kv_head, GROUP, GROUP_ROWS)
    out_offsets = tokens.to(tl.int64) * out_token_stride + head * out_head_stride
    outputs = out_ptr + out_offsets[:, None] + columns[None, :]
    mixed = mixed / tl.where(in_tile, total, 1.0)[:, None]
    tl.store(outputs, mixed.to(out_ptr.dtype.element_ty), in_tile[:, None])


def _launch(
    out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    item_starts: Tensor,
    tile_starts: Tensor,
    tile_stops: Tensor,
    tile_groups: Tensor,
    prefix_lengths: Tensor,
    page_offsets: Tensor,
    page_ids: Tensor,
    tile_tokens: int,
) -> None:
    """Operands as in `paged_attention`, their last axes contiguous."""
    (_, heads, head_dim), kv_heads = q.shape, k.shape[1]
    if tile_starts.shape[0] == 0:
        return
    sizes = block_sizes(heads // kv_heads, head_dim, tile_tokens, q.dtype)
    if not _on_hopper(q.device):
        sizes["maxnreg"] = None  # other generations would spill much more
    _paged_attention_kernel[(kv_heads, tile_starts.shape[0])](
        out,
        *out.stride()[:2],
        q,
        *q.stride()[:2],
        k,
        *k.stride()[:2],
        v,
        *v.stride()[:2],
        key_pages,
        value_pages,
        *key_pages.stride()[:3],
        item_starts,
        tile_starts,
        tile_stops,
        tile_groups,
        prefix_lengths,
        page_offsets,
        page_ids,
        math.log2(math.e) / math.sqrt(head_dim),
        PAGE_SIZE=key_pages.shape[1],
        HEAD_DIM=head_dim,
        FAR=key_pages.shape[0] * key_pages.stride(0) >= 2**31,
        PRECISION=_precision(q.dtype),
        INTERPRETED=interpreting(),
        **sizes,
    )


@functools.cache
def _on_hopper(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9


def _fake(out: Tensor, *operands: object) -> None:
    """Only `out` changes."""


launch_paged_attention = Operator("fairslate::paged_attention", _launch, _fake, ("out",))


def _precision(dtype: torch.dtype) -> str:
    # Three TF32 products keep fp32's accuracy on tensor cores; other dtypes ignore the choice.
    return "tf32x3" if dtype == torch.float32 else "tf32"


def variants() -> list[Variant]:
    """Qwen3-0.6B and 1.7B (2 query heads a key head) and Llama-3.2-1B (4), both sizes of tile."""
    shapes = [(2, 128, 128), (2, 128, 64), (4, 64, 128), (4, 64, 64)]
    half = [_variant("bf16", *shape) for shape in shapes] + [_variant("fp16", 2, 128, 128)]
    lean = _variant("bf16", 2, 128, 128, lean=True)
    return [*half, lean, _variant("fp32", 2, 128, WIDE_ROWS)]


def _variant(dtype: str, group: int, head_dim: int, rows: int, *, lean: bool = False) -> Variant:
    torch_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype]
    constants: dict[str, Any] = {
        **block_sizes(group, head_dim, rows // group, torch_dtype, lean=lean),
        "PAGE_SIZE": 16,
        "HEAD_DIM": head_dim,
        "FAR": False,
        "PRECISION": _precision(torch_dtype),
        "INTERPRETED": False,
    }
    launch = ("num_warps", "num_stages", "maxnreg")
    warps, stages, registers = (constants.pop(name) for name in launch)
    names = ("out", "q", "k", "v", "key_pages", "value_pages")
    strides = [f"{x}_{axis}_stride" for x in names[:4] for axis in ("token", "head")]
    strides += ["page_stride", "slot_stride", "page_head_stride"]
    signature = {
        **{f"{name}_ptr": f"*{dtype}" for name in names},
        **{f"{name}_ptr": "*i32" for name in LAYOUT_FIELDS},
        **dict.fromkeys(strides, "i32"),
        "scale": "fp32",
        **dict.fromkeys(constants, "constexpr"),
    }
    label = f"group={group} d={head_dim} rows={rows} {dtype}{' lean' * lean}"
    spilled = 0 if lean or registers is None else SPILLED
    return Variant(
        _paged_attention_kernel, signature, constants, warps, stages, label, registers, spilled
    )
