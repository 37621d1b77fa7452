"""Operands and rivals in plain torch for the operations of ranking. Computes nothing itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernels.base.variant import Cost
from kernels.catalogue.operation import Draw, Operands, Operation
from kernels.catalogue.shapes import ModelShape

LABELS = 2
EPS = 1e-6
PAGE_TOKENS = 32
EIGHT_BITS = ((torch.int8, "int8", (8, 0)), (torch.float8_e4m3fn, "fp8", (8, 9)))


def _score_head(draw: Draw, model: ModelShape, tokens: int) -> Operands:
    return {
        "hidden": draw.normal(tokens, model.hidden),
        "norm_weight": draw.normal(model.hidden, scale=0.1, shift=1.0),
        "eps": EPS,
        "label_rows": draw.weight(LABELS, model.hidden),
    }


def _segmented_topk(draw: Draw, model: ModelShape, tokens: int) -> Operands:
    """Slates of 97 and one of what is left, ten answers each."""
    return {
        "scores": draw.normal(tokens),
        "cu_seqlens": draw.integers([*range(0, tokens, 97), tokens]),
        "k": 10,
        "max_length": 97,
    }


def _paged_attention(draw: Draw, model: ModelShape, tokens: int) -> Operands:
    """Two slates with prefixes as long as their items together, items of 1 to 64 tokens."""
    half = tokens // 2
    sizes = (half, tokens - half)
    items = [[64] * (size // 64) + [size % 64] * (size % 64 > 0) for size in sizes]
    return shared_prefixes(draw, model, sizes, items)


def shared_prefixes(
    draw: Draw,
    model: ModelShape,
    prefixes: Sequence[int],
    items: Sequence[Sequence[int]],
    tile: int | None = None,
) -> Operands:
    """Operands of `paged_attention`: lengths of the prefixes, and of the items that follow each.

    In tiles of `tile` tokens, or as many as the kernel takes for these.
    """
    from kernels.attention.paged_layout import paged_layout
    from kernels.paged_attention import tile_tokens

    tokens = sum(map(sum, items))
    if tile is None:
        tile = tile_tokens(tokens, model.heads, model.kv_heads, draw.dtype)
    counts = [-(-length // PAGE_TOKENS) for length in prefixes]
    pages = [list(range(sum(counts[:i]), sum(counts[: i + 1]))) for i in range(len(counts))]
    layout = paged_layout(
        _bounds([length for group in items for length in group]),
        _bounds([sum(group) for group in items]),
        list(prefixes),
        pages,
        tile,
    )
    own, pool = (tokens, model.kv_heads), (sum(counts), PAGE_TOKENS, model.kv_heads)
    return {
        "q": draw.normal(tokens, model.heads, model.head_dim),
        "k": draw.normal(*own, model.head_dim),
        "v": draw.normal(*own, model.head_dim),
        "key_pages": draw.normal(*pool, model.head_dim),
        "value_pages": draw.normal(*pool, model.head_dim),
        "layout": layout.to(draw.device),
        "tile_tokens": tile,
    }


def _bounds(lengths: Sequence[int]) -> list[int]:
    bounds = [0]
    for length in lengths:
        bounds.append(bounds[-1] + length)
    return bounds


def plain_attention(*, tile_tokens: int, **operands: Any) -> Tensor:
    """The tiles are the kernel's affair."""
    from kernels.paged_attention import paged_attention_reference

    return paged_attention_reference(**operands)


def _norm_quantize(dtype: torch.dtype, draw: Draw, model: ModelShape, tokens: int) -> Operands:
    return {
        "x": draw.normal(tokens, model.hidden),
        "residual": draw.normal(tokens, model.hidden),
        "weight": draw.normal(model.hidden, scale=0.1, shift=1.0),
        "eps": EPS,
        "dtype": dtype,
    }


def _norm_quantize_cost(module: Any, operands: Operands, backward: bool) -> Cost:
    x = operands["x"]
    found: Cost = module.cost(x.shape[0], x.shape[1], x.element_size())
    return found


def _quantize_rows(dtype: torch.dtype, draw: Draw, model: ModelShape, tokens: int) -> Operands:
    return {"x": draw.normal(tokens, model.intermediate), "dtype": dtype}


def _swiglu_quantize(dtype: torch.dtype, draw: Draw, model: ModelShape, tokens: int) -> Operands:
    return {"gate_up": draw.normal(tokens, 2 * model.intermediate), "dtype": dtype}


def _swiglu_quantize_cost(module: Any, operands: Operands, backward: bool) -> Cost:
    gate_up = operands["gate_up"]
    found: Cost = module.cost(gate_up.shape[0], gate_up.shape[1] // 2, gate_up.element_size())
    return found


def _plain_quantize_rows(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    from kernels.eight_bits.quantize import quantize_rows_reference

    return quantize_rows_reference(x, dtype)


def eight_bits(draw: Draw, dtype: torch.dtype, rows: int, columns: int) -> Tensor:
    """A quantized operand, its whole range used."""
    if dtype == torch.int8:
        return (draw.below(255, rows, columns) - 127).to(dtype)
    return draw.normal(rows, columns, scale=100.0).clamp(-448, 448).to(dtype)


def _quantized_gemm(dtype: torch.dtype, draw: Draw, model: ModelShape, tokens: int) -> Operands:
    return {
        "a": eight_bits(draw, dtype, tokens, model.hidden),
        "b": eight_bits(draw, dtype, model.intermediate, model.hidden),
        "a_scales": draw.positive(tokens).float() * 1e-2,
        "b_scales": draw.positive(model.intermediate).float() * 1e-2,
        "dtype": draw.dtype,
    }


def _qk_norm_rope(draw: Draw, model: ModelShape, tokens: int) -> Operands:
    """Heads as views of one product of queries, keys and values; tables half a head wide."""
    heads = model.heads + 2 * model.kv_heads
    packed = draw.normal(tokens, heads, model.head_dim)
    half = model.head_dim // 2
    rates = model.theta ** -torch.linspace(0, 1, half, device=draw.device)
    angles = torch.arange(tokens + 3, device=draw.device)[:, None] * rates
    return {
        "q": packed[:, : model.heads],
        "k": packed[:, model.heads : model.heads + model.kv_heads],
        "q_weight": draw.normal(model.head_dim, scale=0.1, shift=1.0),
        "k_weight": draw.normal(model.head_dim, scale=0.1, shift=1.0),
        "eps": EPS,
        "cos": angles.cos(),
        "sin": angles.sin(),
        "positions": draw.below(tokens, tokens),
    }


def _qk_norm_rope_cost(module: Any, operands: Operands, backward: bool) -> Cost:
    values = operands["q"].numel() + operands["k"].numel()
    return Cost(2 * values * operands["q"].element_size(), 7 * values)


def _weight_only_gemm(draw: Draw, model: ModelShape, tokens: int) -> Operands:
    """As many rows as are taken; words of random bits are weights like any others."""
    most = 8 if draw.device.type == "cpu" else 32
    depth = -(-model.hidden // 128) * 128
    columns = model.intermediate
    words = draw.below(1 << 32, columns, depth // 8) - (1 << 31)
    return {
        "x": draw.normal(min(tokens, most), depth),
        "packed": words.int(),
        "scales": draw.positive(columns, depth // 128) * 1e-2,
    }


INFERENCE = (
    Operation(
        "weight_only_gemm",
        _weight_only_gemm,
        sizes=("hidden", "intermediate"),
        tokens=(),  # timed against cuBLAS in `gemm_rivals`
        dtypes=(torch.bfloat16,),
    ),
    Operation(
        "qk_norm_rope",
        _qk_norm_rope,
        sizes=("heads", "kv_heads", "head_dim"),
        priced=_qk_norm_rope_cost,
    ),
    Operation("score_head", _score_head, tokens=(64, 256, 2048)),
    Operation(
        "segmented_topk",
        _segmented_topk,
        module_name="topk",
        sizes=(),
        tokens=(2048,),
        compiles=False,  # not after 20 s: the reference loops over the segments
    ),
    Operation(
        "paged_attention",
        _paged_attention,
        sizes=("heads", "kv_heads", "head_dim"),
        tokens=(),  # timed against whole sequences in `special`
        reference=plain_attention,
    ),
    *(
        Operation(
            "add_rms_norm_quantize",
            partial(_norm_quantize, dtype),
            variant=name,
            module_name="norm_quantize",
            capability=capability,
            priced=_norm_quantize_cost,
        )
        for dtype, name, capability in EIGHT_BITS
    ),
    *(
        Operation(
            "quantize_rows",
            partial(_quantize_rows, dtype),
            variant=name,
            module_name="row_quantizer",
            sizes=("intermediate",),
            capability=capability,
            reference=_plain_quantize_rows,
        )
        for dtype, name, capability in EIGHT_BITS
    ),
    *(
        Operation(
            "swiglu_quantize",
            partial(_swiglu_quantize, dtype),
            variant=name,
            sizes=("intermediate",),
            capability=capability,
            priced=_swiglu_quantize_cost,
        )
        for dtype, name, capability in EIGHT_BITS
    ),
    *(
        Operation(
            "quantized_gemm",
            partial(_quantized_gemm, dtype),
            variant=name,
            sizes=("hidden", "intermediate"),
            tokens=(),  # timed against cuBLAS in `gemm_rivals`
            capability=capability,
            bound=2e-3 if name == "fp8" else 0.0,  # fp8 tensor cores keep about 14 bits of a sum
        )
        for dtype, name, capability in EIGHT_BITS
    ),
)
