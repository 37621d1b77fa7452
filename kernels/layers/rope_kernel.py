"""The kernel that turns the heads of a token, and its parts. Knows nothing of gradients.

One program turns all queries and keys of one token, so that a row of cosines and sines is read once
for them. Halves are loaded whole before either is written: outputs may be the operands themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kernels.base.dispatch import Operator, jit, tl, triton
from kernels.base.variant import Variant

VALUES_PER_WARP = 1024  # of a token's queries and keys


@jit
def half_offsets(
    head_stride: int,
    heads: int,
    half_size: int,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """(heads, values) of the lower halves of a token's heads: offsets, and which of them exist."""
    head, column = tl.arange(0, BLOCK_HEADS), tl.arange(0, BLOCK_HALF)
    inside = (head < heads)[:, None] & (column < half_size)[None, :]
    return head.to(tl.int64)[:, None] * head_stride + column[None, :], inside


@jit
def load_halves(
    x_ptr: tl.tensor, offsets: tl.tensor, inside: tl.tensor, half_size: int
) -> tuple[tl.tensor, tl.tensor]:
    """Both halves of a token's heads in fp32."""
    low = tl.load(x_ptr + offsets, inside, 0.0).to(tl.float32)
    high = tl.load(x_ptr + offsets + half_size, inside, 0.0).to(tl.float32)
    return low, high


@jit
def load_angles(
    cos_ptr: tl.tensor,
    sin_ptr: tl.tensor,
    at_row: tl.tensor,
    half_size: int,
    BLOCK_HALF: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """One row of each table in fp32, (1, values)."""
    column = tl.arange(0, BLOCK_HALF)
    inside = column < half_size
    cos = tl.load(cos_ptr + at_row + column, inside, 0.0).to(tl.float32)
    sin = tl.load(sin_ptr + at_row + column, inside, 0.0).to(tl.float32)
    return cos[None, :], sin[None, :]


@jit
def turned_halves(
    low: tl.tensor, high: tl.tensor, cos: tl.tensor, sin: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    """Halves turned by the angles, in fp32."""
    return low * cos - high * sin, high * cos + low * sin


@jit
def store_halves(
    out_ptr: tl.tensor,
    offsets: tl.tensor,
    inside: tl.tensor,
    half_size: int,
    low: tl.tensor,
    high: tl.tensor,
) -> None:
    """Writes halves where `load_halves` would read them, rounded to the dtype of `out_ptr`."""
    tl.store(out_ptr + offsets, low.to(out_ptr.dtype.element_ty), inside)
    tl.store(out_ptr + offsets + half_size, high.to(out_ptr.dtype.element_ty), inside)


@jit
def _rope_kernel(
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
    cos_ptr: tl.tensor,
    sin_ptr: tl.tensor,
    table_stride: int,
    positions_ptr: tl.tensor,
    entries: int,
    tokens: int,
    heads: int,
    kv_heads: int,
    half_size: int,
    WITH_POSITIONS: tl.constexpr,
    INVERSE: tl.constexpr,
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
    # Sequences may share positions: entries are then as many as the tokens of one.
    row = (program % entries).to(tl.int64)
    if WITH_POSITIONS:
        row = tl.load(positions_ptr + row).to(tl.int64)
    cos, sin = load_angles(cos_ptr, sin_ptr, row * table_stride, half_size, BLOCK_HALF)
    if INVERSE:
        sin = -sin
    q_at, q_in = half_offsets(q_out_head_stride, heads, half_size, BLOCK_HEADS, BLOCK_HALF)
    k_at, k_in = half_offsets(k_out_head_stride, kv_heads, half_size, BLOCK_KV_HEADS, BLOCK_HALF)
    q_low, q_high = turned_halves(q_low, q_high, cos, sin)
    k_low, k_high = turned_halves(k_low, k_high, cos, sin)
    store_halves(q_out_ptr, q_at, q_in, half_size, q_low, q_high)
    store_halves(k_out_ptr, k_at, k_in, half_size, k_low, k_high)


def launch_rope(
    outputs: Sequence[Tensor],
    operands: Sequence[Tensor],
    cos: Tensor,
    sin: Tensor,
    positions: Tensor | None,
    inverse: bool,
) -> None:
    """Queries and keys (B, heads, S, d), last axes contiguous; tables (rows, d/2 or d)."""
    q, k = operands
    batch, heads, tokens, width = q.shape
    if not q.numel():
        return
    sizes, num_warps = block_sizes(heads, k.shape[1], width)
    strides = [stride for t in (*outputs, *operands) for stride in t.stride()]
    _rope_kernel[(batch * tokens,)](
        outputs[0],
        strides[0],
        strides[2],
        strides[1],
        outputs[1],
        strides[4],
        strides[6],
        strides[5],
        q,
        strides[8],
        strides[10],
        strides[9],
        k,
        strides[12],
        strides[14],
        strides[13],
        cos,
        sin,
        cos.stride(0),
        cos if positions is None else positions,
        len(cos) if positions is None else positions.numel(),
        tokens,
        heads,
        k.shape[1],
        width // 2,
        WITH_POSITIONS=positions is not None,
        INVERSE=inverse,
        **sizes,
        num_warps=num_warps,
    )


def block_sizes(heads: int, kv_heads: int, width: int) -> tuple[dict[str, int], int]:
    """Compile-time sizes and warps of the program that turns one token."""
    sizes = {
        "BLOCK_HEADS": triton.next_power_of_2(heads),
        "BLOCK_KV_HEADS": triton.next_power_of_2(kv_heads),
        "BLOCK_HALF": triton.next_power_of_2(width // 2),
    }
    values = triton.next_power_of_2((heads + kv_heads) * width)
    return sizes, max(1, min(16, values // VALUES_PER_WARP))


def _rope(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None, inverse: bool
) -> tuple[Tensor, Tensor]:
    outputs = _rope_fake(q, k, cos, sin, positions, inverse)
    launch_rope(outputs, (q, k), cos, sin, positions, inverse)
    return outputs


def _rope_fake(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None, inverse: bool
) -> tuple[Tensor, Tensor]:
    return heads_within_tokens(q), heads_within_tokens(k)


def heads_within_tokens(x: Tensor) -> Tensor:
    """Empty (B, heads, S, d) that lies in memory as (B, S, heads, d), as projections leave it."""
    batch, heads, tokens, width = x.shape
    return x.new_empty((batch, tokens, heads, width)).transpose(1, 2)


turn = Operator("fairslate::rope", _rope, _rope_fake)


def variants() -> list[Variant]:
    """Both directions at the heads of Qwen3-0.6B and 1.7B and of Llama-3.2-1B."""
    return [
        variant(dtype, *heads, inverse=inverse)
        for dtype in ("bf16", "fp32")
        for heads in ((16, 8, 128), (32, 8, 64))
        for inverse in (False, True)
    ]


def variant(dtype: str, heads: int, kv_heads: int, width: int, *, inverse: bool) -> Variant:
    """One compilation with fp32 tables; `dtype` is Triton's: "fp32", "bf16" or "fp16"."""
    sizes, num_warps = block_sizes(heads, kv_heads, width)
    constants = {"WITH_POSITIONS": True, "INVERSE": inverse} | sizes
    signature: dict[str, str] = {}
    for name in ("q_out", "k_out", "q", "k"):
        signature[f"{name}_ptr"] = f"*{dtype}"
        signature |= {f"{name}_{axis}_stride": "i32" for axis in ("batch", "token", "head")}
    signature |= {"cos_ptr": "*fp32", "sin_ptr": "*fp32", "table_stride": "i32"}
    signature |= {"positions_ptr": "*i64", "entries": "i32", "tokens": "i32"}
    signature |= {"heads": "i32", "kv_heads": "i32", "half_size": "i32"}
    signature |= dict.fromkeys(constants, "constexpr")
    label = f"{heads}/{kv_heads} heads d={width} {dtype}{' inverse' if inverse else ''}"
    return Variant(_rope_kernel, signature, constants, num_warps, shape=label)
