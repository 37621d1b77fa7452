"""Rotary position embedding of queries and keys in one launch, for training and inference.

    low'  = low  * cos[p] - high * sin[p]
    high' = high * cos[p] + low  * sin[p]

low and high are the halves of a head, as Hugging Face's Llama and Qwen pair them, p the position of
the token. fp32 inside, one rounding at the end. Moves 2 * tokens * (heads + kv_heads) * d values.
The gradient is the rotation by -p, so that training keeps nothing but the tables. Knows nothing of
how positions are chosen.
"""

from __future__ import annotations

from typing import Any

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
    wants_gradient,
)
from kernels.base.dispatch import choose_backend
from kernels.base.variant import Cost
from kernels.layers.rope_kernel import launch_rope, turn


def rope_reference(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The formula in plain torch; shapes as in `rope`."""
    rows = [table if positions is None else table[positions] for table in (cos, sin)]
    # One axis for the heads: before d in the packed layout, before tokens in Hugging Face's.
    angles = [row.unsqueeze(-2 if q.ndim == 3 else -3)[..., : q.shape[-1] // 2] for row in rows]
    return _rotated(q, *angles), _rotated(k, *angles)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    low, high = x.to(wide).chunk(2, dim=-1)
    cos, sin = cos.to(wide), sin.to(wide)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(x.dtype)


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin, positions)
        return turn(q, k, cos, sin, positions, False)

    @staticmethod
    def backward(ctx: Any, dq: Tensor, dk: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin, positions = ctx.saved_tensors
        turned = turn(rows_contiguous(dq), rows_contiguous(dk), cos, sin, positions, True)
        return *turned, None, None, None


def rope(
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor | None = None,
    *,
    out: tuple[Tensor, Tensor] | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Turned copies of `q` and `k`, in their shapes and dtype.

    Packed: q (T, heads, d), k (T, kv_heads, d). Hugging Face: q (B, heads, S, d), k (B, kv_heads,
    S, d). Last axes contiguous, others of any stride; another last axis costs a copy.
    Without `positions`, cos and sin hold a row for each token: (T, d), (B, S, d) or, shared by the
    sequences, (1, S, d). With `positions`, int32 or int64 of shape (T,), (B, S) or (1, S), they
    hold one for each position, (positions, d); positions are trusted to lie within. Tables may be
    d/2 wide: of d values the first half is read, the second being its copy.
    `out`, without gradients, may be (q, k) themselves. Differentiable in q and k, once. Raises
    ValueError or TypeError naming the operand, BackendUnavailableError as `choose_backend` does.
    """
    check_rope_operands(q, k, cos, sin, positions)
    if out is not None:
        for name, output, like in (("out[0]", out[0], q), ("out[1]", out[1], k)):
            check_output(name, output, like, like.shape)
    if choose_backend(backend, q) == "torch":
        turned = rope_reference(q, k, cos, sin, positions)
        return turned if out is None else copied(out, turned)
    batched_q, batched_k = (batched(rows_contiguous(x)) for x in (q, k))
    cos, sin = (table.reshape(-1, table.shape[-1]).contiguous() for table in (cos, sin))
    positions = None if positions is None else positions.flatten().contiguous()
    if out is not None:
        launch_rope([batched(x) for x in out], (batched_q, batched_k), cos, sin, positions, False)
        return out
    if wants_gradient(q, k):
        turned = _Rope.apply(batched_q, batched_k, cos, sin, positions)  # type: ignore[no-untyped-call]
    else:
        turned = turn(batched_q, batched_k, cos, sin, positions, False)
    if q.ndim == 4:
        return turned
    return turned[0][0].transpose(0, 1), turned[1][0].transpose(0, 1)


def copied(out: tuple[Tensor, Tensor], turned: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """`out`, now holding what was turned."""
    for target, source in zip(out, turned, strict=True):
        target.copy_(source)
    return out


def batched(x: Tensor) -> Tensor:
    """A view of packed (T, heads, d) as (1, heads, T, d); (B, heads, S, d) as it is."""
    return x if x.ndim == 4 else x.transpose(0, 1)[None]


def check_rope_operands(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None
) -> None:
    """Raises what `rope` promises."""
    if q.ndim not in (3, 4) or q.shape[-1] % 2 or q.shape[-1] == 0:
        raise ValueError(
            f"q has shape {tuple(q.shape)}; it must be (T, heads, d) or (B, heads, S, d), d even"
        )
    expected = ["kv_heads" if axis == 1 else size for axis, size in enumerate(q.shape)]
    check_shape("k", k, expected)
    if q.shape[1] == 0 or k.shape[1] == 0:
        raise ValueError(f"q and k have {q.shape[1]} and {k.shape[1]} heads; give each one or more")
    check_dtype("q", q, FLOATS)
    check_same_dtype(q=q, k=k)
    check_dtype("cos", cos, FLOATS)
    check_same_dtype(cos=cos, sin=sin)
    _check_rows(q, cos, positions)
    check_shape("sin", sin, cos.shape)
    check_same_device(q=q, k=k, cos=cos, sin=sin)


def _check_rows(q: Tensor, cos: Tensor, positions: Tensor | None) -> None:
    width = q.shape[-1]
    if cos.ndim == 0 or cos.shape[-1] not in (width, width // 2):
        raise ValueError(f"cos has shape {tuple(cos.shape)}; its rows must be {width} or half wide")
    tokens = [(q.shape[0],)] if q.ndim == 3 else [(n, q.shape[2]) for n in {1, q.shape[0]}]
    if positions is None:
        name, rows = "cos", tuple(cos.shape[:-1])
    else:
        check_dtype("positions", positions, (torch.int64, torch.int32))
        check_shape("cos", cos, ("positions", cos.shape[-1]))
        check_same_device(q=q, positions=positions)
        name, rows = "positions", tuple(positions.shape)
    if rows not in tokens:
        wanted = " or ".join(str(shape) for shape in sorted(tokens))
        raise ValueError(f"{name} is for tokens {rows}; it must be for {wanted}")


def cost(tokens: int, heads: int, kv_heads: int, width: int, element_size: int) -> Cost:
    """Forward or backward: queries and keys read and written; tables not counted."""
    values = tokens * (heads + kv_heads) * width
    return Cost(bytes=2 * values * element_size, flops=3 * values)
