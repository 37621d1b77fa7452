"""Sums the weight gradients that a few long-lived programs left, in a fixed order.

Reads programs * columns float32 values and writes columns values. No atomics: the same inputs give
the same bits. Knows nothing of what was summed.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from kernels.base.dispatch import jit, tl, triton
from kernels.base.variant import Variant

BLOCK_PROGRAMS = 64
BLOCK_COLUMNS = 32
PROGRAMS_PER_PROCESSOR = 2
INTERPRETED_PROGRAMS = 3  # enough to sum over, few enough for Python


@jit
def _sum_partials_kernel(
    sum_ptr: tl.tensor,
    partials_ptr: tl.tensor,
    partials_stride: int,
    programs: int,
    hidden_size: int,
    BLOCK_PROGRAMS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
) -> None:
    columns = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    in_row = columns < hidden_size
    sums = tl.zeros((BLOCK_PROGRAMS, BLOCK_COLUMNS), dtype=tl.float32)
    for start in range(0, programs, BLOCK_PROGRAMS):
        program = start + tl.arange(0, BLOCK_PROGRAMS)
        inside = (program < programs)[:, None] & in_row[None, :]
        offsets = program[:, None] * partials_stride + columns[None, :]
        sums += tl.load(partials_ptr + offsets, inside, 0.0).to(tl.float32)
    total = tl.sum(sums, axis=0).to(sum_ptr.dtype.element_ty)
    tl.store(sum_ptr + columns, total, in_row)


def sum_partials(partials: Tensor, dtype: torch.dtype) -> Tensor:
    """(programs, columns) float32 to (columns,) of `dtype`."""
    programs, columns = partials.shape
    total = partials.new_empty(columns, dtype=dtype)
    _sum_partials_kernel[(triton.cdiv(columns, BLOCK_COLUMNS),)](
        total,
        partials,
        partials.stride(0),
        programs,
        columns,
        BLOCK_PROGRAMS=BLOCK_PROGRAMS,
        BLOCK_COLUMNS=BLOCK_COLUMNS,
    )
    return total


def partial_count(device: torch.device, row_blocks: int) -> int:
    """How many programs share the rows: a few for each multiprocessor, no more than blocks."""
    return max(1, min(PROGRAMS_PER_PROCESSOR * _processors(device), row_blocks))


@cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return INTERPRETED_PROGRAMS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def variants() -> list[Variant]:
    """Sums into every dtype a weight may have."""
    constants = {"BLOCK_PROGRAMS": BLOCK_PROGRAMS, "BLOCK_COLUMNS": BLOCK_COLUMNS}
    signature = {
        "partials_ptr": "*fp32",
        "partials_stride": "i32",
        "programs": "i32",
        "hidden_size": "i32",
    } | dict.fromkeys(constants, "constexpr")
    return [
        Variant(_sum_partials_kernel, {"sum_ptr": f"*{dtype}"} | signature, constants, shape=dtype)
        for dtype in ("fp32", "bf16")
    ]
