"""Cross-entropy of a linear layer's outputs that never exist at once. Knows nothing of models.

    loss = cross_entropy(hidden weight^T + bias, targets),  terms as in `cross_entropy_rows`

Chunks of tokens pass through the layer and the loss, which leaves its gradient in the chunk's
logits; the gradients of the operands are taken from there, in the forward pass, so the backward
pass only scales them. With losses per row the upstream factors are unknown until then, and the
backward pass computes the logits a second time: four products of N * V * h instead of three.

Moved at the least: each operand and gradient once and a chunk's logits five times; what counts is
the products' 6 N V h operations. d weight is summed in float32 and takes 4 V h bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.base.checks import FLOATS, rows_contiguous
from kernels.base.dispatch import Operator, choose_backend
from kernels.base.variant import Cost
from kernels.cross_entropy import check_targets, checked_terms
from kernels.losses.chunked_loss import chunked_loss
from kernels.losses.cross_entropy_rows import Terms, cross_entropy_rows
from kernels.losses.reduction import check_reduction, row_weight
from kernels.losses.token_chunks import (
    Head,
    Results,
    check_chunk_tokens,
    empty_results,
    run_in_chunks,
)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    reduction: str = "mean",
    chunk_tokens: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Loss float32, a scalar or (N,) for reduction "none".

    hidden (N, h), weight (V, h) and bias (V,) of one float dtype (float64 in plain torch as well);
    targets (N,) int64. The terms are those of `cross_entropy`. `chunk_tokens` sets how many tokens'
    logits exist at a time; None lets `chunk_size` choose. Raises ValueError or TypeError naming the
    operand, BackendUnavailableError as `choose_backend` does.
    """
    chosen = choose_backend(backend, hidden)
    head = Head(rows_contiguous(hidden), rows_contiguous(weight), bias)
    head.check("", (*FLOATS, torch.float64) if chosen == "torch" else FLOATS)
    check_targets(targets, hidden)
    check_reduction(reduction)
    check_chunk_tokens(chunk_tokens)
    terms = checked_terms(ignore_index, label_smoothing, z_loss, softcap)
    counted = None
    if reduction != "none":
        counted = row_weight(targets, hidden, ignore_index, reduction)
    rest = (targets.contiguous(), *terms, chunk_tokens, chosen)
    return chunked_loss(linear_operator, head, counted, rest)


def _run(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    row_weights: Tensor,
    wanted: list[bool],
    targets: Tensor,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    softcap: float | None,
    chunk_tokens: int | None,
    backend: str,
) -> Results:
    terms = Terms(ignore_index, label_smoothing, z_loss, softcap)

    def loss(logits: Tensor, span: slice, weights: Tensor | None) -> Tensor:
        return cross_entropy_rows(logits, targets[span], weights, terms, backend)

    return run_in_chunks(Head(hidden, weight, bias), row_weights, wanted, chunk_tokens, loss)


linear_operator = Operator("fairslate::linear_cross_entropy", _run, empty_results)


def cost(hidden: Tensor, weight: Tensor) -> Cost:
    """Three products of N * V * h; operands read and gradients written once, no logits at all."""
    tokens, width = hidden.shape
    moved = 2 * (hidden.nbytes + weight.nbytes) + tokens * 8
    return Cost(moved, 6 * tokens * width * weight.shape[0])
