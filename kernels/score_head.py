"""Final norm and label logits in one pass over each row. Knows nothing of what a label means.

    logit[n, k] = rstd[n] * sum_j hidden[n, j] * norm_weight[j] * label_rows[k, j]
    rstd[n]     = 1 / sqrt(mean_j hidden[n, j]^2 + eps)

rstd leaves the sum, so one pass over `hidden` yields both: N * h + (K + 1) * h values are read and
N * K written, and neither the normalised rows nor tokens x vocabulary logits ever exist.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.dispatch import choose_backend, jit, tl, triton

MAX_BLOCK_HIDDEN = 512
MAX_TILE = 4096  # label x hidden values one program holds; more spills registers
MAX_LABELS = 128


def score_head_reference(
    hidden: Tensor, norm_weight: Tensor, eps: float, label_rows: Tensor
) -> Tensor:
    """The formula in plain torch, fp32 throughout; shapes as in `score_head`."""
    rows = hidden.float()
    rstd = torch.rsqrt(rows.square().mean(dim=-1, keepdim=True) + eps)
    return (rows * rstd) @ (label_rows.float() * norm_weight.float()).T


@jit
def _score_head_kernel(
    output_ptr: tl.tensor,
    output_row_stride: int,
    hidden_ptr: tl.tensor,
    hidden_row_stride: int,
    norm_weight_ptr: tl.tensor,
    label_rows_ptr: tl.tensor,
    label_row_stride: int,
    eps: float,
    hidden_size: int,
    label_count: int,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_LABELS: tl.constexpr,
) -> None:
    # One program per row. Offsets of rows are int64: N * h passes 2^31 at long context.
    row = tl.program_id(0).to(tl.int64)
    labels = tl.arange(0, BLOCK_LABELS)
    squares = tl.zeros((BLOCK_HIDDEN,), dtype=tl.float32)
    products = tl.zeros((BLOCK_LABELS,), dtype=tl.float32)
    for start in range(0, hidden_size, BLOCK_HIDDEN):
        columns = start + tl.arange(0, BLOCK_HIDDEN)
        inside = columns < hidden_size
        # Each load is cast at once: the interpreter computes garbage on bf16 values.
        x = tl.load(hidden_ptr + row * hidden_row_stride + columns, inside, 0.0).to(tl.float32)
        weight = tl.load(norm_weight_ptr + columns, inside, 0.0).to(tl.float32)
        tile = labels[:, None] * label_row_stride + columns[None, :]
        in_tile = (labels < label_count)[:, None] & inside[None, :]
        label_row = tl.load(label_rows_ptr + tile, in_tile, 0.0).to(tl.float32)
        squares += x * x
        products += tl.sum(label_row * (x * weight)[None, :], axis=1)
    rstd = 1.0 / tl.sqrt(tl.sum(squares, axis=0) / hidden_size + eps)
    outputs = output_ptr + row * output_row_stride + labels
    tl.store(outputs, products * rstd, labels < label_count)


def _launch_score_head(
    output: Tensor, hidden: Tensor, norm_weight: Tensor, eps: float, label_rows: Tensor
) -> None:
    """Writes into `output` (N, K) float32, whose last axis is contiguous like its operands'."""
    count, hidden_size = hidden.shape
    if count == 0:
        return
    _score_head_kernel[(count,)](
        output,
        output.stride(0),
        hidden,
        hidden.stride(0),
        norm_weight,
        label_rows,
        label_rows.stride(0),
        eps,
        hidden_size,
        label_rows.shape[0],
        **block_sizes(hidden_size, label_rows.shape[0]),
    )


def block_sizes(hidden_size: int, label_count: int) -> dict[str, int]:
    """Compile-time tile of the kernel: powers of two whose product stays in registers."""
    labels = triton.next_power_of_2(label_count)
    widest = min(MAX_BLOCK_HIDDEN, MAX_TILE // labels)
    return {
        "BLOCK_HIDDEN": min(widest, triton.next_power_of_2(hidden_size)),
        "BLOCK_LABELS": labels,
    }


def score_head(
    hidden: Tensor,
    norm_weight: Tensor,
    eps: float,
    label_rows: Tensor,
    *,
    backend: str = "auto",
    out: Tensor | None = None,
) -> Tensor:
    """Logits (N, K) float32 of `hidden` (N, h), `norm_weight` (h,), `label_rows` (K, h), K <= 128.

    Any float dtype comes in, sums are fp32. `out` saves the allocation. Raises ValueError naming
    the operand and the shape it should have, BackendUnavailableError as `choose_backend` does.
    """
    _check_shapes(hidden, norm_weight, label_rows)
    result = _output(hidden, label_rows, out)
    if choose_backend(backend, hidden) == "torch":
        return result.copy_(score_head_reference(hidden, norm_weight, eps, label_rows))
    operands = [_rows_contiguous(operand) for operand in (hidden, norm_weight, label_rows)]
    _launch_score_head(result, operands[0], operands[1], eps, operands[2])
    return result


def _check_shapes(hidden: Tensor, norm_weight: Tensor, label_rows: Tensor) -> None:
    if hidden.ndim != 2:
        raise ValueError(f"hidden has shape {tuple(hidden.shape)}; it must be (rows, hidden)")
    width = hidden.shape[1]
    if norm_weight.shape != (width,):
        raise ValueError(f"norm_weight has shape {tuple(norm_weight.shape)}; it must be ({width},)")
    if label_rows.ndim != 2 or label_rows.shape[1] != width:
        raise ValueError(
            f"label_rows has shape {tuple(label_rows.shape)}; it must be (labels, {width})"
        )
    if not 1 <= label_rows.shape[0] <= MAX_LABELS:
        raise ValueError(f"label_rows has {label_rows.shape[0]} labels; pass 1 to {MAX_LABELS}")


def _output(hidden: Tensor, label_rows: Tensor, out: Tensor | None) -> Tensor:
    shape = (hidden.shape[0], label_rows.shape[0])
    if out is None:
        return hidden.new_empty(shape, dtype=torch.float32)
    if out.shape != shape or out.dtype != torch.float32 or (shape[1] > 1 and out.stride(1) != 1):
        raise ValueError(
            f"out is {out.dtype} {tuple(out.shape)}; it must be float32 {shape}, rows contiguous"
        )
    return out


def _rows_contiguous(operand: Tensor) -> Tensor:
    return operand if operand.stride(-1) == 1 else operand.contiguous()
