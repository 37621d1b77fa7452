"""The kernel that norms and turns the heads of a token. Knows nothing of layouts and checks.

One program for each token, as in `rope_kernel`; a head's two halves share the sum of squares.
"""

from __future__ import annotations

from torch import Tensor

from kernels.base.dispatch import Operator, jit, tl
from kernels.base.variant import Variant
from kernels.layers.rope_kernel import (
    block_sizes,
    half_offsets,
    load_angles,
    load_halves,
    store_halves,
    turned_halves,
)


@jit
def normed_halves(
    low: tl.tensor,
    high: tl.tensor,
    weight_ptr: tl.tensor,
    eps: float,
    half_size: int,
    BLOCK_HALF: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """RMSNorm of heads in fp32 halves, with the weight of all heads."""
    column = tl.arange(0, BLOCK_HALF)
    inside = column < half_size
    low_weight = tl.load(weight_ptr + column, inside, 0.0).to(tl.float32)
    high_weight = tl.load(weight_ptr + half_size + column, inside, 0.0).to(tl.float32)
    squares = tl.sum(low * low + high * high, axis=1)
    rstd = tl.rsqrt(squares / (2 * half_size) + eps)[:, None]
    return low * rstd * low_weight[None, :], high * rstd * high_weight[None, :]


@jit
def _qk_norm_rope_kernel(
    q_out_ptr: tl.tensor,
    q_out_batch_stride: int,
    q_out_token_stride: int,
    q_out_head_stride: int,
    k_out_ptr: tl.tensor,
    k_out_batch_stride: int,
    k_out_token_stride: int,
    k_out_head_stride: int,
    q_ptr: tl.tensor,
    q_batch_stride: int,
    q_token_stride: int,
    q_head_stride: int,
    k_ptr: tl.tensor,
    k_batch_stride: int,
    k_token_stride: int,
    k_head_stride: int,
    q_weight_ptr: tl.tensor,
    k_weight_ptr: tl.tensor,
    eps: float,
    cos_ptr: tl.tensor,
    sin_ptr: tl.tensor,
    table_stride: int,
    positions_ptr: tl.tensor,
    entries: int,
    values_ptr: tl.tensor,
    values_token_stride: int,
    values_head_stride: int,
    key_pages_ptr: tl.tensor,
    value_pages_ptr: tl.tensor,
    slots_ptr: tl.tensor,
    tokens: int,
    heads: int,
    kv_heads: int,
    half_size: int,
    WITH_POSITIONS: tl.constexpr,
    WITH_STORE: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_KV_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
) -> None:
    program = tl.program_id(0)
    batch, token = (program // tokens).to(tl.int64), (program % tokens).to(tl.int64)
    q_ptr += batch * q_batch_stride + token * q_token_stride
    k_ptr += batch * k_batch_stride + token * k_token_stride
    q_out_ptr += batch * q_out_batch_stride + token * q_out_token_stride
    k_out_ptr += batch * k_out_batch_stride + token * k_out_token_stride
    q_at, q_in = half_offsets(q_head_stride, heads, half_size, BLOCK_HEADS, BLOCK_HALF)
    k_at, k_in = half_offsets(k_head_stride, kv_heads, half_size, BLOCK_KV_HEADS, BLOCK_HALF)
    q_low, q_high = load_halves(q_ptr, q_at, q_in, half_size)
    k_low, k_high = load_halves(k_ptr, k_at, k_in, half_size)
    row = (program % entries).to(tl.int64)
    if WITH_POSITIONS:
        row = tl.load(positions_ptr + row).to(tl.int64)
    cos, sin = load_angles(cos_ptr, sin_ptr, row * table_stride, half_size, BLOCK_HALF)
    q_low, q_high = normed_halves(q_low, q_high, q_weight_ptr, eps, half_size, BLOCK_HALF)
    k_low, k_high = normed_halves(k_low, k_high, k_weight_ptr, eps, half_size, BLOCK_HALF)
    q_low, q_high = turned_halves(q_low, q_high, cos, sin)
    k_low, k_high = turned_halves(k_low, k_high, cos, sin)
    q_at, q_in = half_offsets(q_out_head_stride, heads, half_size, BLOCK_HEADS, BLOCK_HALF)
    k_at, k_in = half_offsets(k_out_head_stride, kv_heads, half_size, BLOCK_KV_HEADS, BLOCK_HALF)
    store_halves(q_out_ptr, q_at, q_in, half_size, q_low, q_high)
    store_halves(k_out_ptr, k_at, k_in, half_size, k_low, k_high)
    if WITH_STORE:
        slot = tl.load(slots_ptr + token).to(tl.int64)
        if slot >= 0:
            width = 2 * half_size
            to, inside = half_offsets(width, kv_heads, half_size, BLOCK_KV_HEADS, BLOCK_HALF)
            to += slot * kv_heads * width
            store_halves(key_pages_ptr, to, inside, half_size, k_low, k_high)
            at, inside = half_offsets(
                values_head_stride, kv_heads, half_size, BLOCK_KV_HEADS, BLOCK_HALF
            )
            at += token * values_token_stride
            v_low, v_high = load_halves(values_ptr, at, inside, half_size)
            store_halves(value_pages_ptr, to, inside, half_size, v_low, v_high)


def _norm_and_turn(
    q_out: Tensor,
    k_out: Tensor,
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor | None,
    values: Tensor | None,
    key_pages: Tensor | None,
    value_pages: Tensor | None,
    slots: Tensor | None,
) -> None:
    """Heads (B, heads, S, d), values (S, kv_heads, d); last axes, tables and pages contiguous."""
    batch, heads, tokens, width = q.shape
    if not q.numel():
        return
    sizes, num_warps = block_sizes(heads, k.shape[1], width)
    _qk_norm_rope_kernel[(batch * tokens,)](
        q_out,
        q_out.stride(0),
        q_out.stride(2),
        q_out.stride(1),
        k_out,
        k_out.stride(0),
        k_out.stride(2),
        k_out.stride(1),
        q,
        q.stride(0),
        q.stride(2),
        q.stride(1),
        k,
        k.stride(0),
        k.stride(2),
        k.stride(1),
        q_weight,
        k_weight,
        eps,
        cos,
        sin,
        cos.stride(0),
        cos if positions is None else positions,
        len(cos) if positions is None else positions.numel(),
        k if values is None else values,
        0 if values is None else values.stride(0),
        0 if values is None else values.stride(1),
        k if key_pages is None else key_pages,
        k if value_pages is None else value_pages,
        k if slots is None else slots,
        tokens,
        heads,
        k.shape[1],
        width // 2,
        WITH_POSITIONS=positions is not None,
        WITH_STORE=slots is not None,
        **sizes,
        num_warps=num_warps,
    )


def _fake(
    q_out: Tensor,
    k_out: Tensor,
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor | None,
    values: Tensor | None,
    key_pages: Tensor | None,
    value_pages: Tensor | None,
    slots: Tensor | None,
) -> None:
    return None


norm_and_turn = Operator(
    "fairslate::qk_norm_rope",
    _norm_and_turn,
    _fake,
    mutates=("q_out", "k_out", "key_pages", "value_pages"),
)


def variants() -> list[Variant]:
    """At the heads of Qwen3-0.6B and 1.7B, with and without the pages."""
    return [
        variant(dtype, 16, 8, 128, store=store)
        for dtype in ("bf16", "fp32")
        for store in (False, True)
    ]


def variant(dtype: str, heads: int, kv_heads: int, width: int, *, store: bool) -> Variant:
    """One compilation with fp32 tables; `dtype` is Triton's: "fp32", "bf16" or "fp16"."""
    sizes, num_warps = block_sizes(heads, kv_heads, width)
    constants = {"WITH_POSITIONS": True, "WITH_STORE": store} | sizes
    operand = f"*{dtype}"
    signature: dict[str, str] = {}
    for name in ("q_out", "k_out", "q", "k"):
        signature[f"{name}_ptr"] = operand
        signature |= {f"{name}_{axis}_stride": "i32" for axis in ("batch", "token", "head")}
    signature |= {"q_weight_ptr": operand, "k_weight_ptr": operand, "eps": "fp32"}
    signature |= {"cos_ptr": "*fp32", "sin_ptr": "*fp32", "table_stride": "i32"}
    signature |= {"positions_ptr": "*i32", "entries": "i32", "values_ptr": operand}
    signature |= {"values_token_stride": "i32", "values_head_stride": "i32"}
    signature |= {"key_pages_ptr": operand, "value_pages_ptr": operand, "slots_ptr": "*i32"}
    signature |= dict.fromkeys(("tokens", "heads", "kv_heads", "half_size"), "i32")
    signature |= dict.fromkeys(constants, "constexpr")
    label = f"{heads}/{kv_heads} heads d={width} {dtype}{' pages' if store else ''}"
    return Variant(_qk_norm_rope_kernel, signature, constants, num_warps, shape=label)
