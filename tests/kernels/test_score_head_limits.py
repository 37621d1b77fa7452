"""What score_head refuses, and what only a GPU can show of it. Knows nothing of models."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.score_head import score_head, score_probabilities
from tests.kernels.score_case import EPS, TOLERANCE, operands, truth
from tests.kernels.truth import DTYPES, assert_accurate, rmse_ratio


@pytest.mark.parametrize(
    ("hidden", "norm_weight", "label_rows", "message"),
    [
        ((4,), (4,), (2, 4), r"hidden has shape \(4,\)"),
        ((3, 4), (5,), (2, 4), r"norm_weight has shape \(5,\); it must be \(4,\)"),
        ((3, 4), (4,), (2, 5), r"label_rows has shape \(2, 5\); it must be \(labels, 4\)"),
        ((3, 4), (4,), (0, 4), "label_rows has 0 labels; pass 1 to 128"),
        ((3, 4), (4,), (129, 4), "label_rows has 129 labels; pass 1 to 128"),
    ],
)
def test_wrong_shapes_are_named_and_never_reach_the_kernel(
    hidden: tuple[int, ...], norm_weight: tuple[int, ...], label_rows: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        score_head(torch.ones(hidden), torch.ones(norm_weight), EPS, torch.ones(label_rows))


def test_wrong_dtypes_devices_and_shifts_are_named() -> None:
    hidden, norm_weight, label_rows = operands(4, 8, 2)
    with pytest.raises(TypeError, match="hidden is int32"):
        score_head(hidden.int(), norm_weight, EPS, label_rows)
    with pytest.raises(TypeError, match="rows is float32; pass int32 or int64"):
        score_head(hidden, norm_weight, EPS, label_rows, rows=torch.ones(2))
    with pytest.raises(ValueError, match="label_rows is on meta, but hidden is on cpu"):
        score_head(hidden, norm_weight, EPS, label_rows.to("meta"))
    with pytest.raises(ValueError, match=r"shift is 1\.0 for 2 labels"):
        score_probabilities(hidden, norm_weight, EPS, label_rows, shift=1.0)


@pytest.mark.parametrize(
    ("out", "error"),
    [
        (torch.empty(3, 3), ValueError),
        (torch.empty(4, 2).half(), TypeError),
        (torch.empty(2, 4).T, ValueError),
    ],
    ids=["shape", "dtype", "strides"],
)
def test_an_output_of_another_form_is_refused(out: Tensor, error: type[Exception]) -> None:
    hidden, norm_weight, label_rows = operands(4, 8, 2)
    with pytest.raises(error, match="out "):
        score_head(hidden, norm_weight, EPS, label_rows, out=out)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_captured_graph_scores_new_rows_without_memory(dtype: torch.dtype) -> None:
    hidden, norm_weight, label_rows = (t.cuda() for t in operands(256, 1024, 2, dtype))
    rows = torch.arange(64, device="cuda", dtype=torch.int32)
    out = tuple(torch.empty(2, 64, 2, device="cuda"))
    arguments = (hidden, norm_weight, EPS, label_rows)
    score_probabilities(*arguments, rows=rows, out=out)
    before = torch.cuda.memory_allocated()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        score_probabilities(*arguments, rows=rows, out=out)
    assert torch.cuda.memory_allocated() - before < 1_000_000
    rows += 100
    graph.replay()
    expected = truth(hidden[rows.long()], norm_weight, label_rows)
    assert rmse_ratio(out[0], expected) <= TOLERANCE
    assert float((out[1].double() - expected.softmax(1)).abs().max()) <= 1e-5


@pytest.mark.gpu
def test_rows_behind_two_billion_values_are_found() -> None:
    hidden = torch.zeros(2**31 // 1024 + 2, 1024, dtype=torch.bfloat16, device="cuda")
    _, norm_weight, label_rows = (t.cuda() for t in operands(1, 1024, 2, torch.bfloat16))
    hidden[-1] = 2.0
    rows = torch.tensor([hidden.shape[0] - 1], device="cuda")
    actual = score_head(hidden, norm_weight, EPS, label_rows, rows=rows)
    assert_accurate("logits", actual, truth(hidden[-1:], norm_weight, label_rows), TOLERANCE)
