"""Trains through losses that hand out gradients together with themselves. Knows no loss.

An operator runs over chunks of tokens as `token_chunks` tells and has the form

    operator(hidden, weight, bias, row_weights, wanted, *rest) -> losses, d hidden, d weight, d bias

with the gradients of sum(row_weights * losses). The weights of a mean or a sum are known at once:
the gradients come in the forward pass and the backward pass only scales them, on the device. Losses
per row get their weights from above, so their backward pass runs the operator a second time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.losses.token_chunks import Head

Gradients = tuple[Tensor | None, ...]


def chunked_loss(
    operator: Callable[..., Any], head: Head, row_weight: Tensor | None, rest: tuple[Any, ...]
) -> Tensor:
    """sum(row_weight * losses) for `row_weight` (), the losses (N,) for None."""
    operands = (head.hidden, head.weight, head.bias)
    wanted = [torch.is_grad_enabled() and x is not None and x.requires_grad for x in operands]
    if row_weight is None:
        return _PerRow.apply(*operands, operator, wanted, *rest)  # type: ignore[no-any-return, no-untyped-call]
    return _Reduced.apply(*operands, row_weight, operator, wanted, *rest)  # type: ignore[no-any-return, no-untyped-call]


class _Reduced(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        row_weight: Tensor,
        operator: Callable[..., Any],
        wanted: list[bool],
        *rest: Any,
    ) -> Tensor:
        row_weights = row_weight.expand(hidden.shape[0])
        losses, *gradients = operator(hidden, weight, bias, row_weights, wanted, *rest)
        ctx.save_for_backward(*gradients)
        ctx.wanted, ctx.dtype, ctx.others = wanted, hidden.dtype, 3 + len(rest)
        return losses.sum() * row_weight  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Gradients:
        pairs = zip(ctx.saved_tensors, ctx.wanted, strict=True)
        gradients = [_scaled(x, upstream, ctx.dtype) if want else None for x, want in pairs]
        return (*gradients, *[None] * ctx.others)


class _PerRow(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        operator: Callable[..., Any],
        wanted: list[bool],
        *rest: Any,
    ) -> Tensor:
        unweighted = torch.ones((), device=hidden.device).expand(hidden.shape[0])
        losses, *_ = operator(hidden, weight, bias, unweighted, [False] * 3, *rest)
        ctx.save_for_backward(hidden, weight, bias, *(x for x in rest if isinstance(x, Tensor)))
        ctx.rest = [None if isinstance(x, Tensor) else (x,) for x in rest]
        ctx.operator, ctx.wanted = operator, wanted
        return losses  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Gradients:
        hidden, weight, bias, *tensors = ctx.saved_tensors
        waiting = iter(tensors)
        rest = [next(waiting) if held is None else held[0] for held in ctx.rest]
        _, *found = ctx.operator(hidden, weight, bias, upstream.contiguous(), ctx.wanted, *rest)
        pairs = zip(found, ctx.wanted, strict=True)
        gradients = [x.to(hidden.dtype) if want else None for x, want in pairs]
        return (*gradients, *[None] * (2 + len(rest)))


def _scaled(gradient: Tensor, upstream: Tensor, dtype: torch.dtype) -> Tensor:
    """upstream * gradient in `dtype`, in place where this backward pass may consume its buffers."""
    if gradient.dtype == dtype and _may_consume():
        return gradient.mul_(upstream)
    return torch.mul(gradient, upstream, out=torch.empty_like(gradient, dtype=dtype))


def _may_consume() -> bool:
    if torch.compiler.is_compiling():
        return False
    return not torch._C._autograd._get_current_graph_task_keep_graph()
