"""Two-part attention against the formula, query by query, in fp64."""

from __future__ import annotations

import pytest
import torch

from kernels.multi_item_attention import (
    BUCKET_TOKENS,
    item_layout,
    multi_item_attention,
    multi_item_attention_reference,
)
from tests.kernels.truth import rmse_ratio

# (item lengths by group, prefix length by group)
SHAPES = [
    ([[3]], [5]),
    ([[1, 1, 1]], [1]),
    ([[7, 41, 1], [2]], [13, 40]),
    ([[BUCKET_TOKENS, BUCKET_TOKENS + 1], [], [97, 3]], [0, 9, 33]),
    ([[4, 6]], [0]),
    ([[150]], [257]),
]
HEADS = [(4, 4, 16), (6, 2, 32), (3, 1, 64)]


Lengths = list[list[int]]


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), HEADS)
@pytest.mark.parametrize(("lengths", "prefixes"), SHAPES)
def test_agrees_with_the_formula(
    lengths: Lengths, prefixes: list[int], heads: int, kv_heads: int, head_dim: int
) -> None:
    got, truth = compared(lengths, prefixes, (heads, kv_heads, head_dim), torch.float32)
    torch.testing.assert_close(got.double(), truth, atol=4e-6, rtol=0)


@pytest.mark.parametrize(("lengths", "prefixes"), SHAPES)
def test_half_as_wide_operands_give_as_good_a_result_as_their_type_holds(
    lengths: Lengths, prefixes: list[int]
) -> None:
    got, truth = compared(lengths, prefixes, (6, 2, 32), torch.bfloat16)
    assert got.dtype == torch.bfloat16
    assert rmse_ratio(got, truth) <= 5e-3


def compared(
    lengths: Lengths, prefixes: list[int], sizes: tuple[int, int, int], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the operation makes of random operands, and the formula of the same in fp64."""
    heads, kv_heads, head_dim = sizes
    items = [length for group in lengths for length in group]
    total, prefix = sum(items), sum(prefixes)
    layout = item_layout(bounds(items), bounds(list(map(sum, lengths))), bounds(prefixes))
    generator = torch.Generator().manual_seed(3)
    q = (torch.randn(total, heads, head_dim, generator=generator) * 2).to(dtype)
    k, v = torch.randn(2, total, kv_heads, head_dim, generator=generator).to(dtype)
    prefix_k, prefix_v = torch.randn(2, prefix, kv_heads, head_dim, generator=generator).to(dtype)

    got = multi_item_attention(q, k, v, prefix_k, prefix_v, layout)
    truth = multi_item_attention_reference(
        q.double(), k.double(), v.double(), prefix_k.double(), prefix_v.double(), layout
    )
    return got, truth


def test_items_and_groups_do_not_see_each_other() -> None:
    layout = item_layout([0, 3, 8, 12], [0, 8, 12], [0, 4, 10])
    q, k, v = torch.randn(3, 12, 2, 16, generator=torch.Generator().manual_seed(5))
    prefix_k, prefix_v = torch.randn(2, 10, 2, 16, generator=torch.Generator().manual_seed(6))
    before = multi_item_attention(q, k, v, prefix_k, prefix_v, layout)
    for changed in (k, v):
        changed[3:] += 100.0
    for changed in (prefix_k, prefix_v):
        changed[4:] += 100.0
    after = multi_item_attention(q, k, v, prefix_k, prefix_v, layout)
    assert torch.equal(before[:3], after[:3])
    assert not torch.isclose(before[3:], after[3:]).all(dim=-1).any()


def test_a_long_item_does_not_pad_the_short_ones() -> None:
    layout = item_layout([0, *range(500, 600, 10)], [0, 590], [0, 0])
    padded = sum(bucket.tokens.numel() for bucket in layout.buckets)
    assert padded <= 590 + BUCKET_TOKENS * 10


def bounds(lengths: list[int]) -> list[int]:
    return [sum(lengths[:end]) for end in range(len(lengths) + 1)]
