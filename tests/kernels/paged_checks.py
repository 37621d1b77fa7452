"""What must hold of paged attention, in its tests and against planted bugs. Draws nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from kernels.paged_attention import paged_attention, paged_attention_reference
from tests.kernels.paged_case import PagedCase, paged_case
from tests.kernels.truth import SENTINEL, assert_accurate, spread

MARGIN = 64  # tokens around the operands, more than a tile: a planted bug may write there
# Twice the worst RMSE ratio measured: 3.8e-7, 1.7e-3 and 2.1e-4. The interpreter keeps the weights
# in fp32; on a GPU they are rounded to bf16 or fp16 before they meet the values.
TOLERANCES = {torch.float32: 7.6e-7, torch.bfloat16: 3.4e-3, torch.float16: 4.2e-4}
GPU_TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 5e-3, torch.float16: 1e-3}

# item lengths by group, prefix lengths, (heads, kv_heads, head_dim), page size, tokens of a tile
CASES = {
    "one token and no prefix": ([[1]], [0], (2, 1, 16), 16, 8),
    "candidates share tiles": ([[3, 1, 7, 2]], [37], (4, 2, 16), 16, 8),
    "an empty group, an empty prefix": ([[5, 2], [], [9]], [33, 9, 0], (3, 3, 32), 16, 16),
    "a group of three heads": ([[6, 4]], [20], (6, 2, 16), 16, 8),
    "the rest of a context": ([[75]], [50], (2, 1, 16), 8, 32),
    "pages longer than a tile of keys": ([[4, 4]], [130], (2, 2, 16), 128, 16),
    "pages of one token": ([[4, 4]], [19], (2, 1, 16), 1, 4),
    "head_dim 64": ([[2, 3]], [17], (4, 1, 64), 16, 4),
    "head_dim 128": ([[2, 3]], [150], (2, 1, 128), 16, 8),
}


def check(case: PagedCase, backend: str = "triton") -> None:
    """The result is right and nothing around it is written; what lies around q, k, v is NaN."""
    dtype = case.q.dtype
    room = torch.full((case.q.shape[0] + 2 * MARGIN, *case.q.shape[1:]), SENTINEL, dtype=dtype)
    inside = room[MARGIN:-MARGIN]
    apart = replace(case, q=amid_nans(case.q), k=amid_nans(case.k), v=amid_nans(case.v))
    tokens = case.tile_tokens
    paged_attention(*apart.operands, tile_tokens=tokens, backend=backend, out=inside)
    actual = inside.clone()
    inside.fill_(SENTINEL)
    assert (room == SENTINEL).all(), "written outside the output"
    eager = paged_attention_reference(*case.operands)
    assert_accurate("out", actual, case.truth(), TOLERANCES[dtype], eager)


def amid_nans(operand: Tensor) -> Tensor:
    """The same values in the same strides, with tokens of NaN before and behind."""
    if not operand.is_contiguous():
        return operand
    around = operand.new_full((MARGIN, *operand.shape[1:]), math.nan)
    return torch.cat((around, operand, around))[MARGIN:-MARGIN]


def check_unused_tiles() -> None:
    case = paged_case([[3, 4]], [20], (2, 1, 16))
    layout, none = case.layout, torch.zeros(3, dtype=torch.int32)
    padded = replace(
        layout,
        tile_starts=torch.cat((layout.tile_starts, none)),
        tile_stops=torch.cat((layout.tile_stops, none)),
        tile_groups=torch.cat((layout.tile_groups, none)),
    )
    check(replace(case, layout=padded))


def check_strides() -> None:
    """q, k and v as the parts of one projection, pages as one layer of a pool."""
    case = paged_case([[3, 4]], [20], (4, 2, 16))
    packed = torch.cat([t.flatten(1) for t in (case.q, case.k, case.v)], dim=1)
    q, k, v = packed[:, :64], packed[:, 64:96], packed[:, 96:]
    pool = torch.stack((case.key_pages, case.value_pages, case.key_pages + 1), dim=1)
    parts = replace(case, q=q.view(7, 4, 16), k=k.view(7, 2, 16), v=v.view(7, 2, 16))
    check(replace(parts, key_pages=pool[:, 0], value_pages=pool[:, 1]))
    check(replace(case, q=spread(case.q), k=case.k.transpose(0, 1).contiguous().transpose(0, 1)))


def check_large_scores() -> None:
    case = paged_case([[3, 4]], [20], (2, 1, 16))
    check(replace(case, q=case.q * 40))
