"""Runs a loss over the logits of many tokens, a chunk of tokens at a time. Knows nothing of losses.

    logits = hidden weight^T + bias       (N, V), of which only one chunk of rows exists at a time
    d hidden = G weight,  d weight = G^T hidden,  d bias = column sums of G,  G = d loss / d logits

The loss overwrites a chunk's logits with G, so the products share one buffer. They are torch's own
(cuBLAS on a GPU); d weight and d bias are summed over the chunks in float32 or wider, each row of
d hidden comes from a single product.

Few large chunks keep the products near their peak; small ones save memory. On a GPU the buffer of a
chunk takes up to 1 GiB (3,500 tokens of 151,936 logits in bfloat16), on a CPU 56 MiB
(96 tokens in float32).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels.base.checks import (
    FLOATS,
    check_dtype,
    check_same_device,
    check_same_dtype,
    check_shape,
)

CHUNK_BYTES = {"cuda": 1 << 30, "cpu": 7 << 23}
TILE_TOKENS = {"cuda": 128, "cpu": 32}  # chunks are multiples of what products do at a time
SLICE_VALUES = 1 << 18  # values plain torch works on at a time, so that its copies stay in caches
PADDED_COLUMNS = 16  # rows of logits start on 32-byte bounds, as wide loads and cuBLAS want


def check_chunk_tokens(chunk_tokens: int | None) -> None:
    """Raises ValueError for less than one token."""
    if chunk_tokens is not None and chunk_tokens < 1:
        raise ValueError(f"chunk_tokens is {chunk_tokens}; pass 1 or more, or None")


def chunk_size(hidden: Tensor, vocabulary: int) -> int:
    """Tokens of `hidden` (N, h) in a chunk: as few chunks as the buffer allows, of one size."""
    tokens, kind = hidden.shape[0], "cpu" if hidden.device.type == "cpu" else "cuda"
    tile = TILE_TOKENS[kind]
    largest = max(tile, CHUNK_BYTES[kind] // (vocabulary * hidden.element_size()))
    even = math.ceil(tokens / math.ceil(tokens / largest)) if tokens else 1
    return math.ceil(even / tile) * tile if even < tokens else even


def spans(count: int, size: int) -> Iterator[slice]:
    """Slices of `size` that cover `count`; the last may be shorter."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def row_slices(logits: Tensor) -> Iterator[slice]:
    """Slices of the rows of (N, V) that hold about SLICE_VALUES values."""
    return spans(logits.shape[0], max(1, SLICE_VALUES // max(1, logits.shape[1])))


def wide_dtype(operand: Tensor) -> torch.dtype:
    """float32, or float64 for float64: in which sums and losses are kept."""
    return torch.promote_types(operand.dtype, torch.float32)


def logits_buffer(tokens: int, vocabulary: int, like: Tensor) -> Tensor:
    """(tokens, V) without values, each row aligned."""
    width = math.ceil(vocabulary / PADDED_COLUMNS) * PADDED_COLUMNS
    return like.new_empty((tokens, width))[:, :vocabulary]


class Head(NamedTuple):
    """Rows (N, h) before a linear layer of weight (V, h) and bias (V,) or none, of one dtype."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None

    def check(self, name: str, dtypes: tuple[torch.dtype, ...] = FLOATS) -> None:
        """Raises ValueError or TypeError naming `name`_hidden, _weight or _bias."""
        check_shape(f"{name}hidden", self.hidden, ("tokens", "hidden"))
        check_shape(f"{name}weight", self.weight, ("vocabulary", self.hidden.shape[1]))
        operands = {f"{name}hidden": self.hidden, f"{name}weight": self.weight}
        if self.bias is not None:
            check_shape(f"{name}bias", self.bias, (self.weight.shape[0],))
            operands[f"{name}bias"] = self.bias
        check_dtype(f"{name}hidden", self.hidden, dtypes)
        check_same_dtype(**operands)
        check_same_device(**operands)
        if self.weight.shape[0] == 0:
            raise ValueError(f"{name}weight has no rows; it must have one per token")

    def first_columns(self, count: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """The operands that make only the first `count` columns of the logits."""
        return self.hidden, self.weight[:count], None if self.bias is None else self.bias[:count]

    def logits(self, span: slice, buffer: Tensor) -> Tensor:
        """The logits of these rows, written into the first rows of `buffer`."""
        rows = self.hidden[span]
        out = buffer[: rows.shape[0]]
        if self.bias is None:
            return torch.mm(rows, self.weight.T, out=out)
        return torch.addmm(self.bias, rows, self.weight.T, out=out)


class HeadGradients:
    """Gradients of a Head, filled chunk by chunk; those not `wanted` stay empty."""

    def __init__(self, head: Head, wanted: list[bool]) -> None:
        self._head, self._wanted = head, wanted
        self.hidden, self.weight, self.bias = _empty_gradients(head, wanted)

    def take_in(self, span: slice, gradient: Tensor) -> None:
        """Adds what the chunk `span`, whose d loss / d logits is `gradient` (n, V), contributes."""
        first = span.start == 0
        if self._wanted[0]:
            torch.mm(gradient, self._head.weight, out=self.hidden[span])
        if self._wanted[1]:
            _add_product(self.weight, gradient.T, self._head.hidden[span], first)
        if self._wanted[2]:
            columns = gradient.sum(dim=0, dtype=self.bias.dtype)
            self.bias.copy_(columns) if first else self.bias.add_(columns)


def _empty_gradients(head: Head, wanted: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    """Without values, but zeros when there are no tokens; no elements where not wanted."""
    wide = wide_dtype(head.weight)
    shapes = (head.hidden.shape, head.weight.shape, head.weight.shape[:1])
    make = torch.zeros if head.hidden.shape[0] == 0 else torch.empty
    hidden, weight, bias = (
        make(shape if want else (0,), dtype=dtype, device=head.hidden.device)
        for shape, dtype, want in zip(shapes, (head.hidden.dtype, wide, wide), wanted, strict=True)
    )
    return hidden, weight, bias


def _add_product(total: Tensor, left: Tensor, right: Tensor, first: bool) -> None:
    """total += left right, or = for the first, summed in `total`'s dtype."""
    beta = 0 if first else 1
    if total.dtype == left.dtype:
        torch.addmm(total, left, right, beta=beta, out=total)
    elif total.is_cuda:
        torch.addmm(total, left, right, torch.float32, beta=beta, out=total)
    else:
        torch.addmm(total, left.to(total.dtype), right.to(total.dtype), beta=beta, out=total)


Results = tuple[Tensor, Tensor, Tensor, Tensor]


def run_in_chunks(
    head: Head,
    row_weights: Tensor,
    wanted: list[bool],
    chunk_tokens: int | None,
    loss: Callable[[Tensor, slice, Tensor | None], Tensor],
) -> Results:
    """Losses (N,) and the wanted gradients of sum(row_weights * losses).

    `loss(logits, span, weights)` gives the losses of the tokens `span`, and unless weights is None
    leaves the weighted gradient in the place of their logits.
    """
    hidden, vocabulary = head.hidden, head.weight.shape[0]
    gradients = HeadGradients(head, wanted)
    losses = hidden.new_empty(hidden.shape[:1], dtype=wide_dtype(hidden))
    size = chunk_tokens or chunk_size(hidden, vocabulary)
    buffer = logits_buffer(min(size, hidden.shape[0]), vocabulary, hidden)
    for span in spans(hidden.shape[0], size):
        logits = head.logits(span, buffer)
        losses[span] = loss(logits, span, row_weights[span] if any(wanted) else None)
        gradients.take_in(span, logits)
    return losses, gradients.hidden, gradients.weight, gradients.bias


def empty_results(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    row_weights: Tensor,
    wanted: list[bool],
    *_: Any,
) -> Results:
    """The form of what an operator over `run_in_chunks` returns, for torch.compile."""
    losses = hidden.new_empty(hidden.shape[:1], dtype=wide_dtype(hidden))
    return losses, *_empty_gradients(Head(hidden, weight, bias), wanted)
