"""What a CPU is asked beside the operations' own rows: dtypes, products, attention. Times nothing.

Every operation runs in plain torch there. Products are a prefill's, of a layer and many rows; what
quantizes activations, and what copies a prefix to its items, is timed with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.base.variant import Cost
from kernels.bench.gemm_rivals import few_rows_rivals, layers
from kernels.bench.providers import Task
from kernels.bench.rivals import Rivals
from kernels.bench.special import Special
from kernels.catalogue.operation import Draw, Operation
from kernels.catalogue.shapes import QWEN3_06B
from kernels.catalogue.table import OPERATIONS
from kernels.multi_item_attention import item_layout, multi_item_attention
from kernels.quantized_gemm import quantized_gemm
from kernels.row_quantizer import quantize_rows

MODEL, TOKENS = QWEN3_06B, 256
PREFILL, FEW = (64, 512, 2048), (1, 8)
ITEMS, LENGTH = 32, 64
PREFIXES = (8, 16, 32, 64, 128, 256, 512, 1024)
WIDTHS = {torch.float32: "fp32", torch.bfloat16: "bf16"}
IN_EACH_DTYPE, AGAINST_FP32, AGAINST_OTHERS = "in each dtype", "against fp32", "against others"


def _in_each_dtype(operation: Operation, device: torch.device) -> Rivals:
    """The forward pass of one operation."""
    calls, costs = {}, []
    for dtype in operation.dtypes:
        operands = operation.operands(Draw(device, dtype), MODEL, TOKENS)
        task = Task(operation, operands, backward=False)
        (function,) = task.functions("ours").values()
        calls[WIDTHS[dtype]] = task.call(function)
        costs.append(operation.cost(operands, backward=False))
    return Rivals(device, costs[-1], None, calls)


def _product(columns: int, depth: int, rows: int, device: torch.device) -> Rivals:
    """A linear layer in fp32, in bf16, and in int8 with a scale found for each row."""
    draw = Draw(device, torch.bfloat16)
    x, weight = draw.normal(rows, depth), draw.weight(columns, depth)
    wide_x, wide_weight = x.float(), weight.float()
    b, b_scales = quantize_rows(weight, torch.int8)

    def int8() -> Tensor:
        a, a_scales = quantize_rows(x, torch.int8)
        return quantized_gemm(a, b, a_scales, b_scales)

    moved = x.nbytes + weight.nbytes + 2 * rows * columns
    rivals = Rivals(
        device, Cost(moved, 2 * rows * columns * depth), [F.linear(wide_x, wide_weight)]
    )
    _add(rivals, "fp32", partial(F.linear, wide_x, wide_weight))
    _add(rivals, "bf16", partial(F.linear, x, weight))
    _add(rivals, "int8 dynamic", int8)
    return rivals


def _add(rivals: Rivals, name: str, call: Callable[[], Tensor]) -> None:
    rivals.add(name, lambda: call, lambda: [call()])


def _attention(prefix: int, device: torch.device) -> Rivals:
    """Items behind one prefix, whose keys and values are known, in bf16."""
    draw, tokens = Draw(device, torch.bfloat16), ITEMS * LENGTH
    q = draw.normal(tokens, MODEL.heads, MODEL.head_dim)
    k, v = (draw.normal(tokens, MODEL.kv_heads, MODEL.head_dim) for _ in range(2))
    shared = [draw.normal(prefix, MODEL.kv_heads, MODEL.head_dim) for _ in range(2)]
    layout = item_layout(range(0, tokens + 1, LENGTH), (0, tokens), (0, prefix))
    wide = [x.float() for x in (q, k, v, *shared)]
    truth = multi_item_attention(wide[0], wide[1], wide[2], wide[3], wide[4], layout)
    pairs = 2 * prefix + LENGTH + 1  # twice what a query sees on average
    cost = Cost(
        2 * q.nbytes + k.nbytes + v.nbytes + 2 * shared[0].nbytes,
        2 * pairs * tokens * MODEL.heads * MODEL.head_dim,
    )
    rivals = Rivals(device, cost, [truth])
    _add(rivals, "separate sequences", partial(_separate, q, (k, v), shared))
    _add(rivals, "a copied prefix", partial(_copied, q, (k, v), shared))
    mask = _dense_mask(prefix)
    _add(rivals, "a dense mask", partial(_masked, q, (k, v), shared, mask))
    _add(rivals, "ours", partial(multi_item_attention, q, k, v, shared[0], shared[1], layout))
    return rivals


Pair = Sequence[Tensor]  # keys and values


def _separate(q: Tensor, own: Pair, shared: Pair) -> Tensor:
    """Each item behind a prefix of its own, which is computed again."""
    keys, values = _behind_copies(own, shared)
    prefix = shared[0].shape[0]
    before = q[:1].expand(ITEMS, prefix, *q.shape[1:])
    queries = torch.cat((before, _by_item(q)), dim=1).transpose(1, 2)
    whole = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=True)
    return whole[:, :, prefix:].transpose(1, 2).flatten(0, 1)


def _copied(q: Tensor, own: Pair, shared: Pair) -> Tensor:
    """Each item behind a copy of the prefix's keys and values."""
    keys, values = _behind_copies(own, shared)
    prefix = shared[0].shape[0]
    mask = torch.ones(LENGTH, prefix + LENGTH, dtype=torch.bool, device=q.device).tril(prefix)
    queries = _by_item(q).transpose(1, 2)
    out = F.scaled_dot_product_attention(queries, keys, values, mask, enable_gqa=True)
    return out.transpose(1, 2).flatten(0, 1)


def _by_item(x: Tensor) -> Tensor:
    return x.view(ITEMS, LENGTH, *x.shape[1:])


def _behind_copies(own: Pair, shared: Pair) -> list[Tensor]:
    """(items, heads, prefix + length, d)."""
    return [
        torch.cat((before.expand(ITEMS, *before.shape), _by_item(after)), dim=1).transpose(1, 2)
        for before, after in zip(shared, own, strict=True)
    ]


def _masked(q: Tensor, own: Pair, shared: Pair, mask: Tensor) -> Tensor:
    """All items in one sequence, where the mask keeps them apart."""
    keys, values = (
        torch.cat((before, after)).transpose(0, 1)[None]
        for before, after in zip(shared, own, strict=True)
    )
    queries = q.transpose(0, 1)[None]
    out = F.scaled_dot_product_attention(queries, keys, values, mask, enable_gqa=True)
    return out[0].transpose(0, 1)


def _dense_mask(prefix: int) -> Tensor:
    """(tokens, prefix + tokens): the prefix, and what came before in one's own item."""
    item = torch.arange(ITEMS).repeat_interleave(LENGTH)
    own = (item[:, None] == item).tril()
    return torch.cat((own.new_ones(len(item), prefix), own), dim=1)


def attention_row(prefix: int) -> str:
    """What the row of one prefix is called."""
    return f"multi_item_attention P={prefix} N={ITEMS} L={LENGTH}"


CPU_ROWS = (
    *(
        Special(
            operation.label,
            IN_EACH_DTYPE,
            MODEL.name,
            FEW[-1] if operation.name == "weight_only_gemm" else TOKENS,
            partial(_in_each_dtype, operation),
        )
        for operation in OPERATIONS
    ),
    *(
        Special(f"linear {name}", AGAINST_FP32, MODEL.name, rows, partial(_product, *layer, rows))
        for rows in PREFILL
        for name, layer in layers(MODEL).items()
    ),
    *(
        Special(
            "weight_only_gemm gate_up",
            "against bf16",
            MODEL.name,
            rows,
            partial(few_rows_rivals, *layers(MODEL)["gate_up"], rows),
        )
        for rows in FEW
    ),
    *(
        Special(
            attention_row(prefix),
            AGAINST_OTHERS,
            MODEL.name,
            ITEMS * LENGTH,
            partial(_attention, prefix),
        )
        for prefix in PREFIXES
    ),
)
