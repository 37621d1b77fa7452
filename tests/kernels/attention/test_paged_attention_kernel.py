"""Planted bugs of paged attention, and what only a GPU can show of it. Knows nothing of caches."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import pytest
import torch

from kernels import paged_attention as public
from kernels.attention import attention_step as step
from kernels.attention import paged_attention_kernel as module
from kernels.attention import paged_attention_tiles
from kernels.attention.paged_layout import LAYOUT_FIELDS
from kernels.paged_attention import paged_attention
from tests.kernels.paged_case import paged_case
from tests.kernels.paged_checks import (
    CASES,
    GPU_TOLERANCES,
    check,
    check_large_scores,
    check_strides,
    check_unused_tiles,
)
from tests.kernels.planted import each_caught
from tests.kernels.truth import assert_accurate


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
    "the end of the prefix forgotten": ("if full < prefix_length", "if full < 0"),
    "the end forgotten, long heads": ("range(full, prefix_length", "range(full, full"),
    "pages not read ahead": ("pages, start + BLOCK_KEYS + lanes, prefix", "pages, keys, prefix"),
    "pages of the first step": ("page_of(pages, keys, full", "page_of(pages, lanes, full"),
    "first group's pages": ("page_ids_ptr + tl.load(page_offsets_ptr + group)", "page_ids_ptr"),
    "first group's length": ("tl.load(prefix_lengths_ptr + group)", "tl.load(prefix_lengths_ptr)"),
    "keys from the tile on": ("tl.load(item_starts_ptr + first, volatile=True)", "first"),
    "key stride for values": ("offsets[:, None] * v_token", "2 * offsets[:, None] * k_token"),
    "keys of the first head": ("k_token_stride + kv_head * k_head_stride", "k_token_stride"),
    "scale forgotten": ("math.log2(math.e) / math.sqrt(head_dim)", "math.log2(math.e)"),
}
PLANTED_STEP_BUGS = {
    "heads of one group mixed": ("head = rows % GROUP_ROWS", "head = rows % 1"),
    "padded head stored": ("(tokens < last) & (head < GROUP)", "(tokens < last)"),
    "next tile overwritten": ("(tokens < last) & (head < GROUP)", "(head < GROUP)"),
    "bounds of the first tile": ("tile_starts_ptr + tile, volatile", "tile_starts_ptr, volatile"),
    "sums not rescaled": ("total * rescale + tl.sum", "total + tl.sum"),
    "values not rescaled": ("mixed = mixed * rescale[:, None]", "mixed = mixed"),
    "largest score forgotten": (
        "tl.maximum(largest, tl.max(scores, axis=1) * scale)",
        "largest * 0",
    ),
    "largest score unscaled": ("tl.max(scores, axis=1) * scale", "tl.max(scores, axis=1) * 1e3"),
    "page size taken for tile": ("pages + keys // PAGE_SIZE", "pages + keys // 64"),
    "prefix unmasked": (
        "tl.where(inside[None, :], scores",
        "tl.where((keys >= 0)[None, :], scores",
    ),
    "slots of one page": ("slots * slot_stride", "0 * slot_stride"),
}


TELLING = (
    "candidates share tiles",
    "a group of three heads",
    "pages of one token",
    "head_dim 128",
)


def run_all_checks(found: ModuleType) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(public, "launch_paged_attention", found.launch_paged_attention)
        for name in TELLING:
            check(paged_case(*CASES[name]))
        check_strides()
        check_large_scores()
        check_unused_tiles()
        check(paged_case([[3, 2], [4]], [90, 40], (2, 1, 16)))
        patch.setattr(paged_attention_tiles, "LEAN", True)
        check(paged_case([[3, 6], [5, 4]], [37, 70], (4, 2, 128)))


def run_all_checks_of_a_step(found: ModuleType) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "attend_to_last", found.attend_to_last)
        patch.setattr(module, "attend_to_tile", found.attend_to_tile)
        patch.setattr(module, "bounds_of", found.bounds_of)
        patch.setattr(module, "load_prefix", found.load_prefix)
        patch.setattr(module, "rows_of", found.rows_of)
        patch.setattr(module, "page_of", found.page_of)
        patch.setattr(module, "starts_of", found.starts_of)
        run_all_checks(module)


def test_the_checks_pass_without_a_bug() -> None:
    run_all_checks_of_a_step(step)


test_planted_bugs_are_caught = each_caught(module, PLANTED_BUGS, run_all_checks)

test_bugs_planted_in_a_step_are_caught = each_caught(
    step, PLANTED_STEP_BUGS, run_all_checks_of_a_step
)


QWEN3 = (16, 8, 128)
LLAMA = (32, 8, 64)


@pytest.mark.gpu
@pytest.mark.parametrize("heads", [QWEN3, LLAMA], ids=str)
@pytest.mark.parametrize(
    ("dtype", "rows"),
    [(torch.bfloat16, 64), (torch.bfloat16, 128), (torch.float16, 128), (torch.float32, 16)],
)
@pytest.mark.parametrize("lean", [False, True], ids=["usual", "lean"])
def test_agrees_at_real_shapes_on_a_gpu(
    lean: bool,
    rows: int,
    dtype: torch.dtype,
    heads: tuple[int, int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(paged_attention_tiles, "LEAN", lean)
    tokens = rows // (heads[0] // heads[1])
    case = paged_case([[64, 31, 50], [90]], [300, 100], heads, tile_tokens=tokens)
    case = case.to(dtype).to("cuda")
    actual = paged_attention(*case.operands, tile_tokens=tokens)
    assert_accurate("out", actual, case.truth(), GPU_TOLERANCES[dtype])


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
