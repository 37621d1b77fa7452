"""Operands and rivals in plain torch for parts of a decoder's layer. Computes nothing itself."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.base.variant import Cost
from kernels.catalogue.operation import Draw, Operands, Operation, wide
from kernels.catalogue.shapes import ModelShape

EPS = 1e-6


def _rms_norm(draw: Draw, model: ModelShape, tokens: int) -> Operands:
    return {
        "x": draw.normal(tokens, model.hidden),
        "weight": draw.normal(model.hidden, scale=0.1, shift=1.0),
        "eps": EPS,
    }


def _add_rms_norm(draw: Draw, model: ModelShape, tokens: int) -> Operands:
    return {"residual": draw.normal(tokens, model.hidden), **_rms_norm(draw, model, tokens)}


def _layer_norm(draw: Draw, model: ModelShape, tokens: int) -> Operands:
    return {"bias": draw.normal(model.hidden, scale=0.1), **_rms_norm(draw, model, tokens)}


def _eager_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)


def _layer_norm_cost(module: Any, operands: Operands, backward: bool) -> Cost:
    x = operands["x"]
    found: Cost = module.cost(x.shape[0], x.shape[1], x.element_size(), backward=backward)
    return found


def _norm_cost(module: Any, operands: Operands, backward: bool) -> Cost:
    from kernels.norm import cost

    x, add = operands["x"], "residual" in operands
    return cost(x.shape[0], x.shape[1], x.element_size(), add=add, backward=backward)


def _gated(draw: Draw, model: ModelShape, tokens: int) -> Operands:
    inner = (tokens, model.intermediate)
    return {"gate": draw.normal(*inner), "up": draw.normal(*inner)}


def _packed(draw: Draw, model: ModelShape, tokens: int) -> Operands:
    return {"gate_up": draw.normal(tokens, 2 * model.intermediate)}


def _gated_cost(module: Any, operands: Operands, backward: bool) -> Cost:
    values = sum(tensor.numel() for tensor in operands.values()) // 2
    size = next(iter(operands.values())).element_size()
    return Cost((5 if backward else 3) * values * size, (12 if backward else 6) * values)


def _eager_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Two operations in the operands' dtype, as Hugging Face's models have them."""
    return F.silu(gate) * up


def _eager_geglu(gate: Tensor, up: Tensor) -> Tensor:
    return F.gelu(gate, approximate="tanh") * up


def _swiglu_of_halves(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return (F.silu(wide(gate)) * wide(up)).to(gate.dtype)


def _eager_packed(gate_up: Tensor) -> Tensor:
    return _eager_swiglu(*gate_up.chunk(2, dim=-1))


def _rope(draw: Draw, model: ModelShape, tokens: int) -> Operands:
    """One sequence as Hugging Face has it after the projections: heads before tokens, a view."""
    q, k = (
        draw.normal(1, tokens, heads, model.head_dim).transpose(1, 2)
        for heads in (model.heads, model.kv_heads)
    )
    rates = model.theta ** -torch.linspace(0, 1, model.head_dim // 2, device=draw.device)
    angles = torch.arange(tokens, device=draw.device)[None, :, None] * rates.repeat(2)
    return {"q": q, "k": k, "cos": angles.cos().to(draw.dtype), "sin": angles.sin().to(draw.dtype)}


def _eager_rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """In the operands' dtype throughout, as Hugging Face's models rotate."""
    turned = [torch.cat((-x.chunk(2, -1)[1], x.chunk(2, -1)[0]), dim=-1) for x in (q, k)]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return q * cos + turned[0] * sin, k * cos + turned[1] * sin


def _rope_cost(module: Any, operands: Operands, backward: bool) -> Cost:
    moved = operands["q"].nbytes + operands["k"].nbytes
    return Cost(2 * moved, 3 * moved // operands["q"].element_size())


LAYERS = (
    Operation(
        "rms_norm", _rms_norm, trained=("x", "weight"), module_name="norm", priced=_norm_cost
    ),
    Operation(
        "add_rms_norm",
        _add_rms_norm,
        trained=("x", "residual", "weight"),
        module_name="norm",
        priced=_norm_cost,
    ),
    *(
        Operation(
            name,
            operands,
            module_name="swiglu",
            trained=trained,
            sizes=("intermediate",),
            reference=reference,
            eager=eager,
            priced=_gated_cost,
        )
        for name, operands, trained, reference, eager in (
            ("swiglu", _gated, ("gate", "up"), None, _eager_swiglu),
            ("geglu", _gated, ("gate", "up"), None, _eager_geglu),
            ("swiglu_packed", _packed, ("gate_up",), _swiglu_of_halves, _eager_packed),
        )
    ),
    Operation(
        "rope",
        _rope,
        trained=("q", "k"),
        sizes=("heads", "kv_heads", "head_dim"),
        eager=_eager_rope,
        priced=_rope_cost,
    ),
    Operation(
        "layer_norm",
        _layer_norm,
        trained=("x", "weight", "bias"),
        eager=_eager_layer_norm,
        priced=_layer_norm_cost,
    ),
)
