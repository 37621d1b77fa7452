"""Paged attention against the formula, query by query, in fp64. Knows nothing of caches."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import paged_attention as public
from kernels import paged_attention_kernel as module
from kernels.paged_attention import paged_attention, paged_attention_reference, tile_tokens
from kernels.paged_layout import LAYOUT_FIELDS, paged_layout
from tests.kernels.paged_case import PagedCase, paged_case
from tests.kernels.planted import assert_caught
from tests.kernels.truth import (
    DTYPES,
    SENTINEL,
    assert_accurate,
    max_error,
    spread,
)

BACKENDS = ["torch", "triton"]
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
    "head_dim 128": ([[2, 3]], [17], (2, 1, 128), 16, 8),
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


def test_strided_queries_keys_and_values_are_read_in_place() -> None:
    check_strides()


def check_strides() -> None:
    """q, k and v as the parts of one projection, pages as one layer of a pool."""
    case = paged_case([[3, 4]], [20], (4, 2, 16))
    packed = torch.cat([t.flatten(1) for t in (case.q, case.k, case.v)], dim=1)
    q, k, v = packed[:, :64], packed[:, 64:96], packed[:, 96:]
    pool = torch.stack((case.key_pages, case.value_pages, case.key_pages + 1), dim=1)
    parts = replace(case, q=q.view(7, 4, 16), k=k.view(7, 2, 16), v=v.view(7, 2, 16))
    check(replace(parts, key_pages=pool[:, 0], value_pages=pool[:, 1]))
    check(replace(case, q=spread(case.q), k=case.k.transpose(0, 1).contiguous().transpose(0, 1)))


def test_large_scores_do_not_overflow() -> None:
    check_large_scores()


def check_large_scores() -> None:
    case = paged_case([[3, 4]], [20], (2, 1, 16))
    check(replace(case, q=case.q * 40))


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


def test_torch_library_accepts_the_operator() -> None:
    case = paged_case([[3, 4]], [20], (4, 2, 16))
    *tensors, layout = case.operands
    columns = [getattr(layout, name) for name in LAYOUT_FIELDS]
    operands = (torch.empty_like(case.q), *(t.nan_to_num() for t in tensors), *columns, 8)
    torch.library.opcheck(module.launch_paged_attention.twin, operands)


# Each is a plausible slip; the checks above must catch every one of them.
PLANTED_BUGS = {
    "later tokens seen": ("keys[None, :] <= tokens[:, None]", "keys[None, :] < last"),
    "earlier items seen": ("keys[None, :] >= item_starts[:, None]", "keys[None, :] >= 0"),
    "prefix unmasked": ("scores += tl.where(inside", "scores += tl.where(keys >= 0"),
    "sums not rescaled": ("total * rescale + tl.sum", "total + tl.sum"),
    "values not rescaled": ("mixed = mixed * rescale[:, None]", "mixed = mixed"),
    "largest score forgotten": ("tl.maximum(largest, tl.max(scores, axis=1))", "largest * 0"),
    "page size taken for tile": ("pages + keys // PAGE_SIZE", "pages + keys // BLOCK_KEYS"),
    "first group's pages": ("page_ids_ptr + tl.load(page_offsets_ptr + group)", "page_ids_ptr"),
    "first group's length": ("tl.load(prefix_lengths_ptr + group)", "tl.load(prefix_lengths_ptr)"),
    "heads of one group mixed": ("head = rows % GROUP_ROWS", "head = rows % 1"),
    "padded head stored": ("(tokens < last) & (head < GROUP)", "(tokens < last)"),
    "next tile overwritten": ("(tokens < last) & (head < GROUP)", "(head < GROUP)"),
    "key stride for values": ("wide * v_token_stride", "wide * k_token_stride * 2"),
    "scale forgotten": ("math.log2(math.e) / math.sqrt(head_dim)", "math.log2(math.e)"),
}


def run_all_checks(found: ModuleType) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(public, "launch_paged_attention", found.launch_paged_attention)
        for name in ("candidates share tiles", "a group of three heads", "pages of one token"):
            check(paged_case(*CASES[name]))
        check_strides()
        check_large_scores()
        check_unused_tiles()
        check(paged_case([[3, 2], [4]], [90, 40], (2, 1, 16)))


def test_the_checks_pass_without_a_bug() -> None:
    run_all_checks(module)


@pytest.mark.parametrize("bug", PLANTED_BUGS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_planted_bugs_are_caught(bug: str, tmp_path: Path) -> None:
    assert_caught(module, PLANTED_BUGS[bug], tmp_path, run_all_checks)


QWEN3 = (16, 8, 128)
LLAMA = (32, 8, 64)


@pytest.mark.gpu
@pytest.mark.parametrize("heads", [QWEN3, LLAMA], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [32, 64, 128])
def test_agrees_at_real_shapes_on_a_gpu(
    rows: int, dtype: torch.dtype, heads: tuple[int, int, int]
) -> None:
    tokens = rows // (heads[0] // heads[1])
    case = paged_case([[64, 31, 50], [200]], [512, 100], heads, tile_tokens=tokens)
    truth = case.to(dtype).truth()
    case = case.to(dtype).to("cuda")
    actual = paged_attention(*case.operands, tile_tokens=tokens)
    assert_accurate("out", actual.cpu(), truth, GPU_TOLERANCES[dtype])


@pytest.mark.gpu
def test_a_captured_graph_replays_another_batch_of_the_same_size() -> None:
    first = paged_case([[5, 6], [3]], [40, 9], QWEN3, seed=1).to(torch.bfloat16).to("cuda")
    second = paged_case([[4, 7], [3]], [20, 29], QWEN3, seed=5).to(torch.bfloat16).to("cuda")
    out = paged_attention(*first.operands, tile_tokens=8)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        paged_attention(*first.operands, tile_tokens=8, out=out)
    for held, new in zip(first.operands[:5], second.operands[:5], strict=True):
        held.copy_(new)
    for name in LAYOUT_FIELDS:
        getattr(first.layout, name).copy_(getattr(second.layout, name))
    graph.replay()
    expected = paged_attention(*second.operands, tile_tokens=8)
    assert torch.equal(out, expected)


@pytest.mark.gpu
def test_pages_behind_two_billion_values_are_found() -> None:
    case = paged_case([[5, 6]], [16], QWEN3, page_size=16, seed=1).to(torch.bfloat16).to("cuda")
    page = 16 * 8 * 128
    pool = torch.zeros(2, 2**31 // page + 2, 16, 8, 128, dtype=torch.bfloat16, device="cuda")
    held = int(case.layout.page_ids[0])
    pool[0, -1], pool[1, -1] = case.key_pages[held], case.value_pages[held]
    last = torch.full_like(case.layout.page_ids, pool.shape[1] - 1)
    layout = replace(case.layout, page_ids=last)
    actual = paged_attention(*case.operands[:3], pool[0], pool[1], layout, tile_tokens=8)
    expected = paged_attention(*case.operands, tile_tokens=8)
    assert torch.equal(actual, expected)
