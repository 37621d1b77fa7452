"""torch.compile takes the operations of ranking whole. Knows nothing of their results' worth."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from kernels.paged_attention import paged_attention
from kernels.quantized_gemm import quantized_gemm
from kernels.row_quantizer import quantize_rows
from kernels.score_head import score_head, score_probabilities
from kernels.topk import segmented_topk
from kernels.weight_only_gemm import pack_weight, weight_only_gemm
from tests.kernels.paged_case import paged_case
from tests.kernels.truth import draw

LABEL_ROWS, NORM_WEIGHT, ROWS = draw(2, 128), draw(128), torch.tensor([1, 2])
PACKED, SCALES = pack_weight(draw(5, 128))
CASE = paged_case([[3, 4]], [20], (4, 2, 16))


def quantized_product(x: Tensor) -> Tensor:
    values, scales = quantize_rows(x, torch.int8, backend="triton")
    return quantized_gemm(values, values, scales, scales, backend="triton")


def attention(x: Tensor) -> Tensor:
    q, *others, layout = CASE.operands
    k, v, key_pages, value_pages = others
    shifted = q + x[0, 0]
    return paged_attention(
        shifted, k, v, key_pages, value_pages, layout, tile_tokens=8, backend="triton"
    )


def ordered(x: Tensor) -> Tensor:
    bounds = torch.tensor([0, 2, 5])
    return segmented_topk(x[:, 0].contiguous(), bounds, 2, max_length=3, backend="triton")[0]


def probabilities(x: Tensor) -> Tensor:
    return score_probabilities(x, NORM_WEIGHT, 1e-6, LABEL_ROWS, rows=ROWS, backend="triton")[1]


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "score_head": partial(
        score_head, norm_weight=NORM_WEIGHT, eps=1e-6, label_rows=LABEL_ROWS, backend="triton"
    ),
    "score_probabilities": probabilities,
    "segmented_topk": ordered,
    "paged_attention": attention,
    "quantized_gemm": quantized_product,
    "weight_only_gemm": lambda x: weight_only_gemm(x.bfloat16(), PACKED, SCALES, backend="triton"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiles_without_a_graph_break(name: str) -> None:
    x = draw(5, 128)
    compiled = torch.compile(FUNCTIONS[name], fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), FUNCTIONS[name](x))
