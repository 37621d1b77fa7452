"""Norm of each query and key head, then rotary embedding, in one launch, for inference.

    head' = turn(weight * head / sqrt(mean_j head_j^2 + eps), position)

as Qwen3's attention prepares its heads; `rope` says how they turn. fp32 from the one read to the
one write. Moves 2 * tokens * (heads + kv_heads) * d values. On request the turned keys and the
values go to the cells of a paged cache as well, in the same launch. Knows nothing of their readers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.base.checks import (
    FLOATS,
    check_dtype,
    check_output,
    check_same_device,
    check_same_dtype,
    check_shape,
    rows_contiguous,
)
from kernels.base.dispatch import choose_backend
from kernels.base.variant import Cost
from kernels.layers.qk_norm_rope_kernel import norm_and_turn
from kernels.layers.rope_kernel import heads_within_tokens
from kernels.rope import batched, check_rope_operands, copied, rope_reference


@dataclass(frozen=True, slots=True)
class PageStore:
    """Where keys and values of packed tokens go besides: cells of pages, numbered through.

    values (T, kv_heads, d); key_pages and value_pages (pages, page_size, kv_heads, d), contiguous;
    slots (T,) int32 or int64, the cell of each token, page * page_size + place; below 0 for none.
    """

    values: Tensor
    key_pages: Tensor
    value_pages: Tensor
    slots: Tensor


def qk_norm_rope_reference(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The formula in plain torch; shapes as in `qk_norm_rope`."""
    normed = [_normed(x, weight, eps) for x, weight in ((q, q_weight), (k, k_weight))]
    turned_q, turned_k = rope_reference(normed[0], normed[1], cos, sin, positions)
    return turned_q.to(q.dtype), turned_k.to(k.dtype)


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps) * weight


def store_reference(store: PageStore, k: Tensor) -> None:
    """Copies the turned keys and the values of all tokens that have a slot."""
    kept = store.slots >= 0
    cells = store.slots[kept].long()
    store.key_pages.flatten(0, 1)[cells] = k[kept]
    store.value_pages.flatten(0, 1)[cells] = store.values[kept]


def qk_norm_rope(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor | None = None,
    *,
    out: tuple[Tensor, Tensor] | None = None,
    store: PageStore | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Normed and turned `q` and `k`, in their shapes and dtype; weights (d,), others as in `rope`.

    `out` may be (q, k) themselves; `store` needs the packed layout. Not differentiable. Raises
    ValueError or TypeError naming the operand, BackendUnavailableError as `choose_backend` does.
    """
    check_rope_operands(q, k, cos, sin, positions)
    _check_weights(q, q_weight, k_weight)
    if store is not None:
        _check_store(store, k)
    if out is not None:
        for name, output, like in (("out[0]", out[0], q), ("out[1]", out[1], k)):
            check_output(name, output, like, like.shape)
    if choose_backend(backend, q) == "torch":
        turned = qk_norm_rope_reference(q, k, q_weight, k_weight, eps, cos, sin, positions)
        if store is not None:
            store_reference(store, turned[1])
        return turned if out is None else copied(out, turned)
    q_rows, k_rows = (batched(rows_contiguous(x)) for x in (q, k))
    turned = out or (_like(q, q_rows), _like(k, k_rows))
    norm_and_turn(
        batched(turned[0]),
        batched(turned[1]),
        q_rows,
        k_rows,
        q_weight.contiguous(),
        k_weight.contiguous(),
        eps,
        cos.reshape(-1, cos.shape[-1]).contiguous(),
        sin.reshape(-1, sin.shape[-1]).contiguous(),
        None if positions is None else positions.flatten().contiguous(),
        None if store is None else rows_contiguous(store.values),
        None if store is None else store.key_pages,
        None if store is None else store.value_pages,
        None if store is None else store.slots.contiguous(),
    )
    return turned


def _like(x: Tensor, rows: Tensor) -> Tensor:
    empty = heads_within_tokens(rows)
    return empty if x.ndim == 4 else empty[0].transpose(0, 1)


def _check_weights(q: Tensor, q_weight: Tensor, k_weight: Tensor) -> None:
    for name, weight in (("q_weight", q_weight), ("k_weight", k_weight)):
        check_shape(name, weight, (q.shape[-1],))
        check_dtype(name, weight, FLOATS)
        check_same_device(**{"q": q, name: weight})


def _check_store(store: PageStore, k: Tensor) -> None:
    if k.ndim != 3:
        raise ValueError(f"k has shape {tuple(k.shape)}; a store needs (T, kv_heads, d)")
    check_shape("store.values", store.values, k.shape)
    check_shape("store.slots", store.slots, k.shape[:1])
    check_dtype("store.slots", store.slots, (torch.int64, torch.int32))
    pages = {"store.key_pages": store.key_pages, "store.value_pages": store.value_pages}
    for name, page in pages.items():
        check_shape(name, page, ("pages", "page_size", *k.shape[1:]))
        if not page.is_contiguous():
            raise ValueError(f"{name} has strides {page.stride()}; it must be contiguous")
    check_same_dtype(k=k, **{"store.values": store.values}, **pages)
    check_same_device(k=k, **{"store.values": store.values, "store.slots": store.slots}, **pages)


def cost(tokens: int, heads: int, kv_heads: int, width: int, element_size: int) -> Cost:
    """Queries and keys read and written, nothing stored; tables not counted."""
    values = tokens * (heads + kv_heads) * width
    return Cost(bytes=2 * values * element_size, flops=7 * values)
