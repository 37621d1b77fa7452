"""Final norm, label logits and their probabilities, one launch. Knows no meaning of labels.

    x[n]        = hidden[rows[n]]
    logit[n, k] = rstd[n] * sum_j x[n, j] * norm_weight[j] * label_rows[k, j]
    rstd[n]     = 1 / sqrt(mean_j x[n, j]^2 + eps)
    probability = sigmoid(scale * logit + shift) for one label, softmax(scale * logit) for more

rstd leaves the sum, so one pass over the gathered rows yields both: N * h + (K + 1) * h values are
read and at most 2 * N * K written; neither the gathered nor the normalised rows nor tokens x
vocabulary logits ever exist. Operands may be of different float dtypes, sums and results are fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.base.checks import FLOATS, check_dtype, check_output, check_same_device, check_shape
from kernels.base.checks import rows_contiguous as _rows_contiguous
from kernels.base.dispatch import Operator, choose_backend, jit, tl, triton
from kernels.base.variant import Cost, Variant

MAX_BLOCK_HIDDEN = 2048
MAX_TILE = 4096  # label x hidden values one program holds; more spills registers
MAX_LABELS = 128
WARPS = 4  # for any number of rows, so that a row scores the same in any company, to the bit


def score_head_reference(
    hidden: Tensor, norm_weight: Tensor, eps: float, label_rows: Tensor
) -> Tensor:
    """The formula for all rows in plain torch, fp32 throughout; shapes as in `score_head`."""
    rows = hidden.float()
    rstd = torch.rsqrt(rows.square().mean(dim=-1, keepdim=True) + eps)
    return (rows * rstd) @ (label_rows.float() * norm_weight.float()).T


def probabilities_reference(logits: Tensor, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """Calibrated probabilities of logits (N, K), in their dtype."""
    if logits.shape[1] == 1:
        return torch.sigmoid(scale * logits + shift)
    return torch.softmax(scale * logits, dim=1)


@jit
def _score_head_kernel(
    logits_ptr: tl.tensor,
    logits_row_stride: int,
    probabilities_ptr: tl.tensor,
    probabilities_row_stride: int,
    hidden_ptr: tl.tensor,
    hidden_row_stride: int,
    rows_ptr: tl.tensor,
    norm_weight_ptr: tl.tensor,
    label_rows_ptr: tl.tensor,
    label_row_stride: int,
    eps: float,
    scale: float,
    shift: float,
    label_count: int,
    HIDDEN: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_LABELS: tl.constexpr,
    HAS_ROWS: tl.constexpr,
    HAS_PROBABILITIES: tl.constexpr,
) -> None:
    # One program per row. Offsets of rows are int64: tokens x hidden passes 2^31 at long context.
    program = tl.program_id(0).to(tl.int64)
    row = program
    if HAS_ROWS:
        row = tl.load(rows_ptr + program).to(tl.int64)
    labels = tl.arange(0, BLOCK_LABELS)
    squares = tl.zeros((1, BLOCK_HIDDEN), dtype=tl.float32)
    products = tl.zeros((BLOCK_LABELS,), dtype=tl.float32)
    # HIDDEN is compiled in: what one block holds is loaded at once, without a loop or a mask.
    for start in range(0, HIDDEN, BLOCK_HIDDEN):
        columns = start + tl.arange(0, BLOCK_HIDDEN)[None, :]
        inside = columns < HIDDEN
        # Each load is cast at once: the interpreter computes garbage on bf16 values.
        x = tl.load(hidden_ptr + row * hidden_row_stride + columns, inside, 0.0).to(tl.float32)
        weight = tl.load(norm_weight_ptr + columns, inside, 0.0).to(tl.float32)
        tile = labels[:, None] * label_row_stride + columns
        in_tile = (labels < label_count)[:, None] & inside
        label_row = tl.load(label_rows_ptr + tile, in_tile, 0.0).to(tl.float32)
        squares += x * x
        products += tl.sum(label_row * (x * weight), axis=1)
    rstd = tl.rsqrt(tl.sum(squares, axis=1) / HIDDEN + eps)
    logits = products * rstd
    tl.store(logits_ptr + program * logits_row_stride + labels, logits, labels < label_count)
    if HAS_PROBABILITIES:
        if BLOCK_LABELS == 1:
            probabilities = tl.sigmoid(scale * logits + shift)
        else:
            # The largest logit comes off first, so that no exponential overflows.
            scaled = tl.where(labels < label_count, scale * logits, float("-inf"))
            weights = tl.exp(scaled - tl.max(scaled, axis=0))
            probabilities = weights / tl.sum(weights, axis=0)
        outputs = probabilities_ptr + program * probabilities_row_stride + labels
        tl.store(outputs, probabilities, labels < label_count)


def block_sizes(hidden_size: int, label_count: int) -> dict[str, int]:
    """Compile-time sizes of the kernel: a tile of powers of two that stays in registers."""
    labels = triton.next_power_of_2(label_count)
    widest = min(MAX_BLOCK_HIDDEN, MAX_TILE // labels)
    return {
        "HIDDEN": hidden_size,
        "BLOCK_HIDDEN": min(widest, triton.next_power_of_2(hidden_size)),
        "BLOCK_LABELS": labels,
        "num_warps": WARPS,
    }


def _launch(
    logits: Tensor,
    probabilities: Tensor | None,
    hidden: Tensor,
    norm_weight: Tensor,
    eps: float,
    label_rows: Tensor,
    rows: Tensor | None,
    scale: float,
    shift: float,
) -> None:
    """Fills the outputs (N, K) float32, whose last axis is contiguous like the operands'."""
    if logits.shape[0] == 0:
        return
    _score_head_kernel[(logits.shape[0],)](
        logits,
        logits.stride(0),
        probabilities,
        0 if probabilities is None else probabilities.stride(0),
        hidden,
        hidden.stride(0),
        rows,
        norm_weight,
        label_rows,
        label_rows.stride(0),
        eps,
        scale,
        shift,
        label_rows.shape[0],
        HAS_ROWS=rows is not None,
        HAS_PROBABILITIES=probabilities is not None,
        **block_sizes(hidden.shape[1], label_rows.shape[0]),
    )


def _fake(logits: Tensor, *operands: object) -> None:
    """Only the outputs change."""


_launch_score_head = Operator(
    "fairslate::score_head", _launch, _fake, mutates=("logits", "probabilities")
)


def score_head(
    hidden: Tensor,
    norm_weight: Tensor,
    eps: float,
    label_rows: Tensor,
    *,
    rows: Tensor | None = None,
    backend: str = "auto",
    out: Tensor | None = None,
) -> Tensor:
    """Logits (N, K) float32 of `hidden` (T, h), `norm_weight` (h,), `label_rows` (K, h), K <= 128.

    `rows` (N,) int32 or int64 names the rows of `hidden` to score, each within it; None scores all
    in order. Any float dtype comes in, sums are fp32. `out` saves the allocation. Raises ValueError
    or TypeError naming the operand, what it is and what it must be, BackendUnavailableError as
    `choose_backend` does.
    """
    logits = _checked_output("out", out, hidden, norm_weight, label_rows, rows)
    if choose_backend(backend, hidden) == "torch":
        chosen = hidden if rows is None else hidden.index_select(0, rows)
        return logits.copy_(score_head_reference(chosen, norm_weight, eps, label_rows))
    operands = [_rows_contiguous(operand) for operand in (hidden, norm_weight, label_rows)]
    _launch_score_head(logits, None, operands[0], operands[1], eps, operands[2], rows, 1.0, 0.0)
    return logits


def score_probabilities(
    hidden: Tensor,
    norm_weight: Tensor,
    eps: float,
    label_rows: Tensor,
    *,
    rows: Tensor | None = None,
    scale: float = 1.0,
    shift: float = 0.0,
    backend: str = "auto",
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """(logits, probabilities), both (N, K) float32; operands and errors as in `score_head`.

    One label, such as `label_difference` makes of two, gives sigmoid(scale * logit + shift), as
    Platt calibrates; more give softmax(scale * logits), temperature 1 / scale, and take no shift.
    """
    if shift != 0.0 and label_rows.shape[0] > 1:
        raise ValueError(f"shift is {shift} for {label_rows.shape[0]} labels; pass it for one only")
    given = (None, None) if out is None else out
    logits = _checked_output("out[0]", given[0], hidden, norm_weight, label_rows, rows)
    probabilities = _checked_output("out[1]", given[1], hidden, norm_weight, label_rows, rows)
    if choose_backend(backend, hidden) == "torch":
        score_head(hidden, norm_weight, eps, label_rows, rows=rows, backend="torch", out=logits)
        return logits, probabilities.copy_(probabilities_reference(logits, scale, shift))
    operands = [_rows_contiguous(operand) for operand in (hidden, norm_weight, label_rows)]
    _launch_score_head(
        logits, probabilities, operands[0], operands[1], eps, operands[2], rows, scale, shift
    )
    return logits, probabilities


def label_difference(yes: Tensor, no: Tensor) -> Tensor:
    """(1, h) float32: the row whose logit is logit(yes) - logit(no), subtracted before rounding.

    Its sigmoid is the softmax over the two labels; in bf16 the difference would lose bits.
    """
    check_shape("no", no, tuple(yes.shape))
    return (yes.float() - no.float()).reshape(1, -1)


def _checked_output(
    name: str,
    out: Tensor | None,
    hidden: Tensor,
    norm_weight: Tensor,
    label_rows: Tensor,
    rows: Tensor | None,
) -> Tensor:
    """`out` or a new tensor for the logits, once every operand has been checked."""
    check_shape("hidden", hidden, ("rows", "hidden"))
    check_shape("norm_weight", norm_weight, (hidden.shape[1],))
    check_shape("label_rows", label_rows, ("labels", hidden.shape[1]))
    if not 1 <= label_rows.shape[0] <= MAX_LABELS:
        raise ValueError(f"label_rows has {label_rows.shape[0]} labels; pass 1 to {MAX_LABELS}")
    for operand_name, operand in (
        ("hidden", hidden),
        ("norm_weight", norm_weight),
        ("label_rows", label_rows),
    ):
        check_dtype(operand_name, operand, FLOATS)
    check_same_device(hidden=hidden, norm_weight=norm_weight, label_rows=label_rows)
    if rows is not None:
        check_shape("rows", rows, ("rows",))
        check_dtype("rows", rows, (torch.int32, torch.int64))
        check_same_device(hidden=hidden, rows=rows)
    shape = (hidden.shape[0] if rows is None else rows.shape[0], label_rows.shape[0])
    fresh = hidden.new_empty(shape if out is None else (0,), dtype=torch.float32)
    if out is None:
        return fresh
    check_output(name, out, fresh, shape)
    return out


def cost(hidden: Tensor, label_rows: Tensor, rows: Tensor | None = None) -> Cost:
    """Reads the scored rows, the norm weight and the label rows; writes both results."""
    count, (labels, width) = (hidden if rows is None else rows).shape[0], label_rows.shape
    read = (count + 1) * width * hidden.element_size() + label_rows.nbytes
    return Cost(read + 2 * count * labels * 4, count * width * (2 * labels + 3))


def variants() -> list[Variant]:
    """The demo ranker, models of 0.6 B to 1.7 B, the label limit; one label is a difference."""
    shapes = ((192, 2), (1024, 1), (1024, 2), (2048, 2), (4096, 128))
    return [_variant(d, *s) for d in ("fp32", "bf16", "fp16") for s in shapes]


def _variant(dtype: str, hidden_size: int, label_count: int) -> Variant:
    operand, strides = f"*{dtype}", dict.fromkeys(("logits", "probabilities", "hidden"), "i32")
    signature = {
        "logits_ptr": "*fp32",
        "probabilities_ptr": "*fp32",
        "hidden_ptr": operand,
        "rows_ptr": "*i64",
        "norm_weight_ptr": operand,
        "label_rows_ptr": "*fp32" if label_count == 1 else operand,
        "label_row_stride": "i32",
        "label_count": "i32",
        **{f"{name}_row_stride": kind for name, kind in strides.items()},
        **dict.fromkeys(("eps", "scale", "shift"), "fp32"),
    }
    constants = {
        **block_sizes(hidden_size, label_count),
        "HAS_ROWS": True,
        "HAS_PROBABILITIES": True,
    }
    warps = constants.pop("num_warps")
    return Variant(
        _score_head_kernel,
        signature | dict.fromkeys(constants, "constexpr"),
        constants,
        warps,
        shape=f"H={hidden_size} K={label_count} {dtype}",
    )
