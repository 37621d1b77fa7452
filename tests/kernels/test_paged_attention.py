"""Paged attention against the formula, query by query, in fp64. Knows nothing of caches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.attention.paged_layout import paged_layout
from kernels.paged_attention import paged_attention, paged_attention_reference, tile_tokens
from tests.kernels.paged_case import paged_case
from tests.kernels.paged_checks import (
    CASES,
    check,
    check_large_scores,
    check_strides,
    check_unused_tiles,
)
from tests.kernels.truth import BACKENDS, DTYPES, assert_accurate, max_error


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_formula_in_fp64(name: str, backend: str) -> None:
    check(paged_case(*CASES[name]), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_is_as_good_as_eager(dtype: torch.dtype, backend: str) -> None:
    check(paged_case(*CASES["candidates share tiles"]).to(dtype), backend)


def test_the_reference_is_differentiable_in_fp64() -> None:
    case = paged_case([[2, 1]], [3], (2, 1, 4), page_size=2).to(torch.float64)
    leaves = [t.nan_to_num().requires_grad_() for t in case.operands[:5]]
    assert torch.autograd.gradcheck(
        lambda q, k, v, keys, values: paged_attention_reference(q, k, v, keys, values, case.layout),
        leaves,
    )


@settings(max_examples=12, deadline=None)
@given(
    prefix=st.integers(0, 40),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    page_size=st.sampled_from([1, 3, 16]),
)
def test_sharing_equals_separate_sequences(prefix: int, lengths: list[int], page_size: int) -> None:
    case = paged_case([lengths], [prefix], (2, 1, 16), page_size, tile_tokens=8)
    together = paged_attention(*case.operands, tile_tokens=8, backend="triton")
    first = 0
    for length in lengths:
        rows = slice(first, first + length)
        keys = torch.cat((case.prefix_k, case.k[rows])).transpose(0, 1)
        values = torch.cat((case.prefix_v, case.v[rows])).transpose(0, 1)
        queries = case.q[rows].transpose(0, 1).double()
        mask = torch.ones(length, prefix + length, dtype=torch.bool).tril(prefix)
        alone = torch.nn.functional.scaled_dot_product_attention(
            queries, keys.double(), values.double(), mask, enable_gqa=True
        )
        assert_accurate("item", together[rows], alone.transpose(0, 1), 1e-6)
        first += length


def test_permuted_items_keep_their_results() -> None:
    case = paged_case([[3, 5, 4]], [20], (2, 1, 16))
    before = paged_attention(*case.operands, tile_tokens=8, backend="triton")
    order = torch.cat((torch.arange(8, 12), torch.arange(8)))
    layout = paged_layout([0, 4, 7, 12], [0, 12], [20], [case.layout.page_ids.tolist()], 8)
    moved = replace(case, q=case.q[order], k=case.k[order], v=case.v[order], layout=layout)
    after = paged_attention(*moved.operands, tile_tokens=8, backend="triton")
    # Sums run over other places of a tile: equal to rounding, not bit by bit.
    assert max_error(after, before[order]) <= 1e-6


def test_unused_tiles_write_nothing() -> None:
    check_unused_tiles()


def test_strided_queries_keys_and_values_are_read_in_place() -> None:
    check_strides()


def test_large_scores_do_not_overflow() -> None:
    check_large_scores()


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_tokens_give_no_result(backend: str) -> None:
    case = paged_case([[]], [5], (2, 1, 16))
    out = paged_attention(*case.operands, tile_tokens=8, backend=backend)
    assert out.shape == (0, 2, 16)


def test_tiles_with_most_keys_come_first() -> None:
    layout = paged_layout([0, 4, 20, 21], [0, 4, 20, 21], [3, 0, 50], [[0], [], [1, 2]], 8)
    assert layout.tile_groups.tolist() == [2, 1, 1, 0]
    assert layout.tile_starts.tolist() == [20, 12, 4, 0]
    assert layout.tile_stops.tolist() == [21, 20, 12, 4]


@pytest.mark.parametrize(
    ("tokens", "heads", "dtype", "expected"),
    [
        (8192, (16, 8), torch.bfloat16, 64),
        (512, (16, 8), torch.bfloat16, 32),
        (8192, (32, 8), torch.bfloat16, 32),
        (8192, (16, 8), torch.float32, 8),
        (8192, (64, 1), torch.float32, 1),
    ],
)
def test_tiles_suit_the_batch(
    tokens: int, heads: tuple[int, int], dtype: torch.dtype, expected: int
) -> None:
    assert tile_tokens(tokens, *heads, dtype) == expected


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"q": torch.ones(6, 2, 16)}, ValueError, r"q has shape \(6, 2, 16\); it must be \(7,"),
        ({"q": torch.ones(7, 3, 16)}, ValueError, "q has 3 heads; it must be a multiple of k's 2"),
        ({"k": torch.ones(7, 2, 8)}, ValueError, r"k has shape \(7, 2, 8\)"),
        ({"v": torch.ones(7, 1, 16)}, ValueError, "v has shape"),
        ({"key_pages": torch.ones(4, 16, 1, 16)}, ValueError, "key_pages has shape"),
        ({"value_pages": torch.ones(5, 16, 2, 16)}, ValueError, "value_pages has shape"),
        ({"v": torch.ones(7, 2, 16).half()}, TypeError, "v is torch.float16; it must be"),
        ({"k": torch.ones(7, 2, 16, device="meta")}, ValueError, "k is on meta"),
        ({"tile_tokens": 12}, ValueError, "tile_tokens is 12; pass a power of two from 1 to 64"),
        ({"tile_tokens": 128}, ValueError, "tile_tokens is 128"),
    ],
)
def test_bad_input_is_named(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    case = paged_case([[3, 4]], [20], (4, 2, 16))
    names = ("q", "k", "v", "key_pages", "value_pages", "layout")
    operands = dict(zip(names, case.operands, strict=True)) | {"tile_tokens": 8} | change
    with pytest.raises(error, match=message):
        paged_attention(**operands)  # type: ignore[arg-type]


def test_pages_of_two_forms_and_odd_widths_are_named() -> None:
    case = paged_case([[3, 4]], [20], (4, 2, 16))
    other = case.value_pages.transpose(1, 2).contiguous().transpose(1, 2)
    with pytest.raises(ValueError, match="they must be equal and end in 1"):
        paged_attention(*case.operands[:4], other, case.layout, tile_tokens=case.tile_tokens)
    with pytest.raises(ValueError, match="q has head_dim 24; it must be one of"):
        paged_attention(*paged_case([[3]], [4], (1, 1, 24)).operands, tile_tokens=8)
    wide = replace(case.layout, page_ids=case.layout.page_ids.long())
    with pytest.raises(TypeError, match=r"layout\.page_ids is int64; pass int32"):
        paged_attention(*case.operands[:5], wide, tile_tokens=8)
