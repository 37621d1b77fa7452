"""Segmented top-k against torch's stable sort, segment by segment. Knows nothing of slates."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import topk as module
from kernels.topk import MAX_LENGTH, segmented_topk
from tests.kernels.planted import each_caught
from tests.kernels.truth import BACKENDS, draw, surrounded

# One score, none, two alike, an odd length, the longest.
LENGTHS = [[1], [0, 3, 0], [2, 2], [123, 1, 16, 17], [MAX_LENGTH, 5]]
INF, NAN = math.inf, math.nan


def check_order(
    found: ModuleType, scores: Tensor, lengths: list[int], k: int, backend: str
) -> None:
    """Values and indices are those of torch.sort, segment by segment, and -1 behind their end."""
    bounds = list(accumulate(lengths, initial=0))
    longest = max(lengths)
    values, indices = found.segmented_topk(
        scores, torch.tensor(bounds, dtype=torch.int32), k, max_length=longest, backend=backend
    )
    assert values.dtype == torch.float32
    assert values.shape == indices.shape == (len(lengths), k)
    for row, (start, stop) in enumerate(pairwise(bounds)):
        ordered = scores[start:stop].sort(descending=True, stable=True)
        count = min(k, stop - start)
        assert torch.equal(indices[row, :count], ordered.indices[:count])
        assert torch.equal(values[row, :count].nan_to_num(7.0), scores_of(ordered.values[:count]))
        assert (indices[row, count:] == -1).all()
        assert (values[row, count:] == -INF).all()


def scores_of(values: Tensor) -> Tensor:
    return values.float().nan_to_num(7.0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_sorts_each_segment_as_torch_does(lengths: list[int], backend: str) -> None:
    scores = draw(sum(lengths)).mul(4).round()  # many ties
    check_order(module, scores, lengths, max(lengths), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_takes_the_best_few(dtype: torch.dtype, backend: str) -> None:
    check_order(module, draw(60).to(dtype), [30, 4, 26], 5, backend)


SPECIAL = [-0.0, 0.0, 1.0, INF, -INF, NAN, -NAN, 1e-40, -1e-40, 3e38, -3e38]


@pytest.mark.parametrize("backend", BACKENDS)
def test_special_values_stand_where_torch_puts_them(backend: str) -> None:
    check_special_values(module, backend)


def check_special_values(found: ModuleType, backend: str) -> None:
    check_order(found, torch.tensor(SPECIAL + SPECIAL[::-1] + [-INF]), [11, 11, 1], 11, backend)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.sampled_from(SPECIAL), max_size=9), min_size=1, max_size=4))
def test_any_segments_of_any_values_are_ordered(segments: list[list[float]]) -> None:
    scores = torch.tensor([score for segment in segments for score in segment])
    lengths = [len(segment) for segment in segments]
    if max(lengths) > 0:
        check_order(module, scores, lengths, max(lengths), "triton")


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_segments_give_no_rows(backend: str) -> None:
    none = torch.zeros(1, dtype=torch.int64)
    values, indices = segmented_topk(torch.empty(0), none, 3, max_length=4, backend=backend)
    assert values.shape == indices.shape == (0, 3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_generous_bound_on_the_length_changes_nothing(backend: str) -> None:
    scores, bounds = draw(9), torch.tensor([0, 4, 9])
    tight = segmented_topk(scores, bounds, 3, max_length=5, backend=backend)
    loose = segmented_topk(scores, bounds, 3, max_length=64, backend=backend)
    assert all(map(torch.equal, tight, loose))


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_scores_are_read_right(backend: str) -> None:
    scores = draw(20)[::2]
    check_order(module, scores, [6, 4], 6, backend)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"scores": torch.ones(2, 2)}, ValueError, r"scores has shape \(2, 2\)"),
        ({"scores": torch.ones(4).int()}, TypeError, "scores is int32"),
        ({"cu_seqlens": torch.ones(2, 2).int()}, ValueError, "cu_seqlens has shape"),
        ({"cu_seqlens": torch.ones(2)}, TypeError, "cu_seqlens is float32; pass int32 or int64"),
        ({"cu_seqlens": torch.ones(0).int()}, ValueError, "cu_seqlens is empty"),
        ({"max_length": 1025}, ValueError, "max_length is 1025; pass 1 to 1024"),
        ({"max_length": 0}, ValueError, "max_length is 0"),
        ({"k": 5}, ValueError, "k is 5; pass 1 to max_length, which is 4"),
        ({"k": 0}, ValueError, "k is 0"),
        ({"scores": torch.ones(4, device="meta")}, ValueError, "cu_seqlens is on cpu"),
    ],
)
def test_bad_input_is_named(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    scores, bounds = torch.ones(4), torch.tensor([0, 4])
    operands = {"scores": scores, "cu_seqlens": bounds, "k": 2, "max_length": 4}
    with pytest.raises(error, match=message):
        segmented_topk(**(operands | change))  # type: ignore[arg-type]


def test_torch_library_accepts_the_operator() -> None:
    operands = (draw(9), torch.tensor([0, 4, 9]), 3, 5)
    torch.library.opcheck(module._launch_segmented_topk.twin, operands)


PLANTED_BUGS = {
    "minus zero below zero": ("tl.where(score == 0.0, 0.0, score)", "score"),
    "NaN by its sign": ('tl.where(score != score, float("nan"), score)', "score"),
    "negative scores backwards": (
        "tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64)",
        "bits.to(tl.int64)",
    ),
    "ties by the last index": ("(0x7FFFFFFF - slots).to(tl.int64)", "slots.to(tl.int64)"),
    "the neighbour's scores seen": ("tl.where(inside, key, -0x8000000000000000)", "key"),
    "answers of all segments in one row": ("outputs = segment * k + slots", "outputs = slots"),
    "ends unmarked": ("tl.where(filled, index, -1)", "index"),
}


def run_all_checks(found: ModuleType) -> None:
    check_special_values(found, "triton")
    check_order(found, surrounded(draw(9).round(), math.nan), [4, 5], 5, "triton")
    check_order(found, surrounded(draw(2).round(), math.nan), [1, 1], 1, "triton")


test_planted_bugs_are_caught = each_caught(module, PLANTED_BUGS, run_all_checks)


@pytest.mark.gpu
def test_a_captured_graph_replays_on_new_scores() -> None:
    scores, bounds = draw(160).cuda(), torch.tensor([0, 100, 160], device="cuda")
    segmented_topk(scores, bounds, 10, max_length=100)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _, indices = segmented_topk(scores, bounds, 10, max_length=100)
    scores.copy_(draw(160, seed=1))
    graph.replay()
    expected = segmented_topk(scores.cpu(), bounds.cpu(), 10, max_length=100)[1]
    assert torch.equal(indices.cpu(), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("length", [16, 100, MAX_LENGTH])
def test_sorts_at_real_sizes_on_a_gpu(length: int) -> None:
    scores = draw(64 * length).mul(8).round()
    bounds = torch.arange(0, 64 * length + 1, length)
    expected = segmented_topk(scores, bounds, length, max_length=length)
    values, indices = segmented_topk(scores.cuda(), bounds.cuda(), length, max_length=length)
    assert torch.equal(values.cpu(), expected[0])
    assert torch.equal(indices.cpu(), expected[1])
