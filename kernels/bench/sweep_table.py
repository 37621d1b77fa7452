"""Which settings of our kernels are worth trying side by side, and on what. Times nothing.

A setting is a few module constants that a launcher reads anew at each call.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from kernels.base.variant import Cost
from kernels.bench.gemm_rivals import layers
from kernels.bench.providers import Task
from kernels.bench.timing import Call
from kernels.catalogue.inference_table import eight_bits, shared_prefixes
from kernels.catalogue.operation import Draw
from kernels.catalogue.shapes import LLAMA32_1B, QWEN3_06B, ModelShape
from kernels.catalogue.table import OPERATIONS
from kernels.paged_attention import cost as paged_attention_cost
from kernels.paged_attention import paged_attention
from kernels.quantized_gemm import cost as gemm_cost
from kernels.quantized_gemm import quantized_gemm
from kernels.weight_only_gemm import cost as weight_only_cost
from kernels.weight_only_gemm import pack_weight, weight_only_gemm

Setting = Mapping[str, Any]
Prepared = tuple[Call, Cost]


@dataclass(frozen=True, slots=True)
class Sweep:
    """Values to try of constants of one module, for one call on `model` and `tokens`."""

    label: str
    module: str
    settings: Sequence[Setting]
    prepare: Callable[[torch.device], Prepared]
    model: ModelShape = QWEN3_06B
    tokens: int = 8192


def grid(**values: Sequence[Any]) -> list[Setting]:
    """All combinations."""
    return [
        dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())
    ]


def tabled(
    label: str,
    module: str,
    settings: Sequence[Setting],
    backward: bool,
    model: ModelShape = QWEN3_06B,
    tokens: int = 8192,
) -> Sweep:
    """For an entry of the table of operations."""
    prepare = partial(_entry, label, backward, model, tokens)
    return Sweep(label, module, settings, prepare, model, tokens)


def _entry(
    label: str, backward: bool, model: ModelShape, tokens: int, device: torch.device
) -> Prepared:
    operation = next(entry for entry in OPERATIONS if entry.label == label)
    length = 16 if device.type == "cpu" else tokens
    operands = operation.operands(Draw(device, torch.bfloat16), model, length)
    task = Task(operation, operands, backward)
    (function,) = task.functions("ours").values()
    return task.call(function), operation.cost(operands, backward)


def attention(model: ModelShape, prefix: int, items: int, rows: int) -> Sweep:
    """Items of 64 tokens that share a prefix, in tiles of `rows`."""
    prepare = partial(_attention, model, prefix, items, rows)
    label = f"paged_attention P={prefix} N={items} L=64 in tiles of {rows}"
    return Sweep(label, "attention.paged_attention_tiles", STEPS, prepare, model, items * 64)


def _attention(
    model: ModelShape, prefix: int, items: int, rows: int, device: torch.device
) -> Prepared:
    tile = rows // (model.heads // model.kv_heads)
    draw = Draw(device, torch.bfloat16)
    operands = shared_prefixes(draw, model, (prefix,), [[64] * items], tile)
    cost = paged_attention_cost(operands["q"], operands["k"], operands["layout"])
    return partial(paged_attention, **operands), cost


def product(name: str, rows: int, model: ModelShape = QWEN3_06B) -> Sweep:
    """An int8 product of a layer."""
    prepare = partial(_product, *layers(model)[name], rows)
    label = f"quantized_gemm {name} int8"
    return Sweep(label, "eight_bits.gemm_tiles", PRODUCTS, prepare, model, rows)


def _product(columns: int, depth: int, rows: int, device: torch.device) -> Prepared:
    draw = Draw(device, torch.bfloat16)
    a, b = (eight_bits(draw, torch.int8, n, depth) for n in (rows, columns))
    scales = (torch.full((n,), 1e-3, device=device) for n in (rows, columns))
    return partial(quantized_gemm, a, b, *scales), gemm_cost(a, b)


def few_rows(name: str, rows: int, model: ModelShape = QWEN3_06B) -> Sweep:
    """A product of a few rows with weights of four bits."""
    prepare = partial(_few_rows, *layers(model)[name], rows)
    label = f"weight_only_gemm {name}"
    return Sweep(label, "weight_only_gemm", FEW_ROWS, prepare, model, rows)


def _few_rows(columns: int, depth: int, rows: int, device: torch.device) -> Prepared:
    draw = Draw(device, torch.bfloat16)
    x, (packed, scales) = draw.normal(rows, depth), pack_weight(draw.weight(columns, depth))
    call = partial(weight_only_gemm, x, packed, scales.bfloat16())
    return call, weight_only_cost(x, packed, scales.bfloat16())


# Keys of a step, steps ahead and registers a thread, for heads of either length; what was compiled
# without a spill and never timed comes first.
STEPS = [
    {"STEPS": dict.fromkeys((64, 128), step), "LEAN": lean}
    for step, lean in (
        ((64, 2, 128), True),
        ((64, 2, 128), False),
        ((32, 3, 128), True),
        ((32, 3, 128), False),
        ((32, 3, None), False),
        ((64, 2, None), False),
        ((64, 3, 128), False),
        ((64, 3, None), False),
        ((128, 2, None), False),
    )
]
FEW_ROWS = grid(BLOCK_COLUMNS=(16, 32, 64), WARPS=(1, 2, 4), STAGES=(4, 6))
CHUNKS = grid(CHUNK_BYTES=[{"cuda": 1 << power, "cpu": 1 << 26} for power in (28, 29, 30, 31)])
ROWS = grid(BLOCK=(1024, 2048, 4096), WARPS=(4, 8, 16))
# Rows, columns and depth of a tile, its warps and stages.
TILES = (
    (128, 256, 128, 8, 3),
    (128, 256, 128, 8, 4),
    (128, 256, 64, 8, 4),
    (256, 128, 128, 8, 3),
    (128, 128, 128, 8, 3),
    (128, 128, 128, 8, 4),
    (128, 128, 256, 8, 3),
    (128, 128, 64, 8, 5),
    (128, 64, 128, 4, 4),
    (64, 128, 128, 4, 4),
    (64, 64, 256, 4, 3),
)
PRODUCTS = [{"SPEEDS": {tile: (1.0, 1.0)}} for tile in TILES]
FORWARD_TILES = grid(TILE=(1024, 2048, 4096, 8192))
HEADS = grid(VALUES_PER_WARP=(256, 512, 1024, 2048))
LONG = 32_768

SWEEPS = (
    attention(QWEN3_06B, 512, 32, 128),
    attention(LLAMA32_1B, 512, 32, 128),
    attention(QWEN3_06B, 512, 32, 64),
    attention(QWEN3_06B, 2048, 100, 128),
    attention(LLAMA32_1B, 512, 32, 64),
    tabled("score_head", "score_head", grid(WARPS=(1, 2, 4, 8)), False, tokens=64),
    few_rows("gate_up", 1),
    few_rows("gate_up", 32),
    few_rows("down", 8),
    product("gate_up", 8192),
    product("down", 8192),
    product("gate_up", 512),
    product("down", 2048),
    tabled("cross_entropy", "losses.cross_entropy_rows", ROWS, True),
    tabled("cross_entropy in place", "losses.cross_entropy_rows", ROWS, True),
    tabled("linear_cross_entropy", "losses.token_chunks", CHUNKS, True),
    tabled("linear_distillation jsd", "losses.token_chunks", CHUNKS, True, LLAMA32_1B),
    *(
        tabled(label, "layers.norm_forward", FORWARD_TILES, False, tokens=LONG)
        for label in ("rms_norm", "add_rms_norm")
    ),
    tabled(
        "rms_norm",
        "layers.norm_backward",
        grid(TILE=(2048, 4096, 8192), WARPS=(4, 8), BYTES_AHEAD=(0, 16_384)),
        True,
        tokens=LONG,
    ),
    tabled("rope", "layers.rope_kernel", HEADS, False, tokens=LONG),
    tabled("divergence jsd", "losses.divergence_rows", ROWS, True),
)
