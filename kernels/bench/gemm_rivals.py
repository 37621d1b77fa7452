"""Products of linear layers in eight bits, against bf16 and torch's own. Times nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from kernels.bench.rivals import Rivals
from kernels.bench.special import Special
from kernels.catalogue.inference_table import eight_bits
from kernels.catalogue.operation import Draw
from kernels.catalogue.shapes import MODELS, QWEN3_06B, ModelShape
from kernels.quantized_gemm import cost, quantized_gemm
from kernels.weight_only_gemm import cost as weight_only_cost
from kernels.weight_only_gemm import pack_weight, weight_only_gemm

ROWS, FEW_ROWS = (2048, 8192), (1, 8, 32)
SCALE = 1e-3


def layers(model: ModelShape) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of each linear layer, those with one input fused."""
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    return {
        "gate_up": (2 * model.intermediate, model.hidden),
        "down": (model.hidden, model.intermediate),
        "qkv": (queries + 2 * keys, model.hidden),
        "out": (model.hidden, queries),
    }


def product_rivals(columns: int, depth: int, rows: int, device: torch.device) -> Rivals:
    """Scaled products of int8 and fp8, and the bf16 product they stand for."""
    draw = Draw(device, torch.bfloat16)
    a16, b16 = draw.normal(rows, depth), draw.weight(columns, depth)
    out = torch.empty(rows, columns, device=device, dtype=torch.bfloat16)
    a_scales, b_scales = (torch.full((n,), SCALE, device=device) for n in (rows, columns))
    calls: dict[str, Callable[[], Tensor]] = {"bf16": lambda: torch.mm(a16, b16.T, out=out)}
    for name, (dtype, theirs) in TORCH.items():
        a, b = (eight_bits(draw, dtype, n, depth) for n in (rows, columns))
        calls |= {key: partial(rival, a, b, a_scales, b_scales) for key, rival in theirs.items()}
        calls[f"ours {name}"] = partial(quantized_gemm, a, b, a_scales, b_scales, out=out)
    rivals = Rivals(device, cost(a, b), None)
    for name, call in calls.items():
        rivals.add(name, partial(_same, call), list)
    return rivals


def few_rows_rivals(columns: int, depth: int, rows: int, device: torch.device) -> Rivals:
    """Weights of four bits and of sixteen, for a few rows."""
    draw = Draw(device, torch.bfloat16)
    x, weight = draw.normal(rows, depth), draw.weight(columns, depth)
    packed, scales = pack_weight(weight)
    scales, out = scales.bfloat16(), torch.empty(rows, columns, device=device, dtype=weight.dtype)
    rivals = Rivals(device, weight_only_cost(x, packed, scales), None)
    calls: dict[str, Callable[[], Tensor]] = {
        "bf16": lambda: torch.mm(x, weight.T, out=out),
        "ours": partial(weight_only_gemm, x, packed, scales, out=out),
    }
    for name, call in calls.items():
        rivals.add(name, partial(_same, call), list)
    return rivals


def _same(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return call


def _torch_int8(a: Tensor, b: Tensor, a_scales: Tensor, b_scales: Tensor) -> Tensor:
    """The bare product in int32: torch has none with scales."""
    return torch._int_mm(a, b.T)


def _torch_fp8(a: Tensor, b: Tensor, a_scales: Tensor, b_scales: Tensor) -> Tensor:
    scales = (a_scales[:, None], b_scales[None, :])
    return torch._scaled_mm(a, b.T, *scales, out_dtype=torch.bfloat16)


def _torch_fp8_coarse(a: Tensor, b: Tensor, a_scales: Tensor, b_scales: Tensor) -> Tensor:
    """Sums that stay in the tensor cores' short format."""
    scales = (a_scales[:, None], b_scales[None, :])
    return torch._scaled_mm(a, b.T, *scales, out_dtype=torch.bfloat16, use_fast_accum=True)


TORCH = {
    "int8": (torch.int8, {"torch int8": _torch_int8}),
    "fp8": (
        torch.float8_e4m3fn,
        {"torch fp8": _torch_fp8, "torch fp8 coarse": _torch_fp8_coarse},
    ),
}


def _rows(model: ModelShape, names: tuple[str, ...]) -> list[Special]:
    return [
        Special(
            f"quantized_gemm {name}",
            "against bf16",
            model.name,
            rows,
            partial(product_rivals, *layers(model)[name], rows),
        )
        for name in names
        for rows in ROWS
    ]


def _few_rows(model: ModelShape, name: str) -> list[Special]:
    return [
        Special(
            f"weight_only_gemm {name}",
            "against bf16",
            model.name,
            rows,
            partial(few_rows_rivals, *layers(model)[name], rows),
        )
        for rows in FEW_ROWS
    ]


FIRST = [*_rows(QWEN3_06B, ("gate_up", "down")), *_few_rows(QWEN3_06B, "gate_up")]
LATER = [
    *_rows(QWEN3_06B, ("qkv", "out")),
    *(row for model in MODELS[1:] for row in _rows(model, ("gate_up", "down", "qkv", "out"))),
]
