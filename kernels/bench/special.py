"""Comparisons with another way to the same end, beyond one operation's rivals. Times nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.base.variant import Cost
from kernels.bench.rivals import Rivals
from kernels.bench.timing import Call
from kernels.catalogue.inference_table import EIGHT_BITS, plain_attention, shared_prefixes
from kernels.catalogue.operation import Draw, Operands, widened
from kernels.catalogue.shapes import LLAMA32_1B, QWEN3_06B, ModelShape
from kernels.norm import add_rms_norm
from kernels.norm_quantize import add_rms_norm_quantize, add_rms_norm_quantize_reference
from kernels.norm_quantize import cost as norm_quantize_cost
from kernels.paged_attention import cost as paged_attention_cost
from kernels.paged_attention import paged_attention
from kernels.row_quantizer import quantize_rows
from kernels.score_head import score_head, score_head_reference

EPS = 1e-6
CALLS_IN_A_ROW = 20


@dataclass(frozen=True, slots=True)
class Special:
    """A row of its own: `rivals(device)` prepares what it compares."""

    name: str
    mode: str
    model_names: str
    tokens: int
    rivals: Callable[[torch.device], Rivals]


def _score_head(device: torch.device, model: ModelShape = QWEN3_06B, rows: int = 64) -> Rivals:
    """Two label rows, against the whole vocabulary of which two logits are then picked."""
    hidden = torch.randn(rows, model.hidden, device=device).bfloat16()
    norm_weight = torch.ones(model.hidden, device=device).bfloat16()
    vocabulary = (torch.randn(model.vocabulary, model.hidden, device=device) * 0.03).bfloat16()
    labels = torch.tensor([9, 21], device=device)
    label_rows, out = vocabulary[labels].contiguous(), torch.empty(rows, 2, device=device)

    def whole_vocabulary() -> Tensor:
        logits = F.linear(F.rms_norm(hidden, (model.hidden,), norm_weight, EPS), vocabulary)
        return logits[:, labels].float()

    def ours() -> Tensor:
        return score_head(hidden, norm_weight, EPS, label_rows, out=out)

    moved = sum(tensor.nbytes for tensor in (hidden, norm_weight, label_rows, out))
    truth = score_head_reference(hidden.float(), norm_weight.float(), EPS, label_rows.float())
    rivals = Rivals(device, Cost(moved, 2 * rows * 2 * model.hidden), [truth])
    rivals.add("full vocabulary", lambda: whole_vocabulary, lambda: [whole_vocabulary()])
    rivals.add("ours", lambda: ours, lambda: [ours()])
    in_a_row = f"ours, one of {CALLS_IN_A_ROW} in a row"
    rivals.add(in_a_row, lambda: partial(_in_a_row, ours), lambda: [ours()])
    rivals.repeated[in_a_row] = CALLS_IN_A_ROW
    rivals.calls |= _floors(device)
    return rivals


def _floors(device: torch.device) -> dict[str, Call]:
    """What no launch is faster than, and none that waits for a value from memory."""
    one, other = (torch.zeros(1, device=device) for _ in range(2))
    return {
        "a kernel that writes one value": partial(one.fill_, 1.0),
        "a kernel that reads and writes one value": partial(torch.add, one, other, out=one),
    }


def _in_a_row(call: Call) -> None:
    """Launched back to back, with what they read in the cache, as after a forward pass."""
    for _ in range(CALLS_IN_A_ROW):
        call()


def _attention(
    model: ModelShape, prefix: int, items: int, length: int, device: torch.device
) -> Rivals:
    """Items that share a prefix in pages, against as many whole sequences in one batch."""
    draw = Draw(device, torch.bfloat16)
    operands = shared_prefixes(draw, model, (prefix,), [[length] * items])
    operands["out"] = torch.empty_like(operands["q"])
    q, k, v = (_whole(operands, name, items, prefix) for name in ("q", "k", "v"))
    cost = paged_attention_cost(operands["q"], operands["k"], operands["layout"])

    def whole_sequences() -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    def own_tokens() -> Tensor:
        return whole_sequences()[:, :, prefix:].transpose(1, 2).flatten(0, 1)

    def ours() -> Tensor:
        return paged_attention(**operands)

    plain = {name: value for name, value in operands.items() if name != "out"}
    rivals = Rivals(device, cost, [plain_attention(**widened(plain, torch.float32))])
    rivals.add("separate sequences", lambda: whole_sequences, lambda: [own_tokens()])
    rivals.add("ours", lambda: ours, lambda: [ours()])
    return rivals


def _whole(operands: Operands, name: str, items: int, prefix: int) -> Tensor:
    """(items, heads, prefix + length, d): each item behind its own copy of the prefix."""
    own = operands[name].unflatten(0, (items, -1))
    pages = {"k": "key_pages", "v": "value_pages"}.get(name)
    if pages is None:  # queries of the prefix are computed anew by every sequence
        shared = torch.randn(prefix, *own.shape[2:], device=own.device).to(own.dtype)
    else:
        shared = operands[pages].flatten(0, 1)[:prefix]
    whole = torch.cat((shared.expand(items, *shared.shape), own), dim=1)
    return whole.transpose(1, 2).contiguous()


def _shared(model: ModelShape, prefix: int, items: int, length: int) -> Special:
    name, mode = f"paged_attention P={prefix} N={items} L={length}", "against separate sequences"
    attention = partial(_attention, model, prefix, items, length)
    return Special(name, mode, model.name, items * length, attention)


def _norm_pair(dtype: torch.dtype, device: torch.device, tokens: int = 8192) -> Rivals:
    """Norm and quantization in one kernel, against a kernel for each."""
    hidden, draw = QWEN3_06B.hidden, Draw(device, torch.bfloat16)
    x, residual = draw.normal(tokens, hidden), draw.normal(tokens, hidden)
    weight = draw.normal(hidden, scale=0.1, shift=1.0)

    def pair() -> tuple[Tensor, Tensor, Tensor]:
        normed, total = add_rms_norm(x, residual, weight, EPS)
        return *quantize_rows(normed, dtype), total

    def ours() -> tuple[Tensor, Tensor, Tensor]:
        return add_rms_norm_quantize(x, residual, weight, EPS, dtype)

    cost = norm_quantize_cost(tokens, hidden, x.element_size())
    truth = add_rms_norm_quantize_reference(x, residual, weight, EPS, dtype)
    rivals = Rivals(device, cost, truth[1:])
    rivals.add(PAIR, lambda: pair, lambda: pair()[1:])
    rivals.add("ours", lambda: ours, lambda: ours()[1:])
    return rivals


def _normed(name: str, dtype: torch.dtype) -> Special:
    rivals = partial(_norm_pair, dtype)
    return Special(f"{NORM} {name}", AGAINST_PAIR, QWEN3_06B.name, 8192, rivals)


NORM, PAIR, AGAINST_PAIR = "add_rms_norm_quantize", "pair", "against its unfused pair"
BREAK_EVEN = (8, 16, 32, 64, 128, 256, 1024)  # tokens of a prefix, beside 512

SPECIAL = (
    _shared(QWEN3_06B, 512, 32, 64),
    Special("score_head", "against the vocabulary", QWEN3_06B.name, 64, _score_head),
    _shared(LLAMA32_1B, 512, 32, 64),
    _shared(QWEN3_06B, 2048, 100, 64),
    _shared(QWEN3_06B, 120, 10, 180),
    *(_normed(name, dtype) for dtype, name, _ in EIGHT_BITS),
    *(_shared(QWEN3_06B, prefix, 32, 64) for prefix in BREAK_EVEN),
)
