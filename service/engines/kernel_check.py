"""Holds the kernels that an engine will launch to their references. Knows no model."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from kernels.base.dispatch import triton
from kernels.catalogue.operation import Operation
from kernels.catalogue.table import named
from kernels.selfcheck.checking import Check, check
from models.errors import FairslateError
from service.base.config import Settings

# What the scorer launches on a GPU, and what instead or beside it for linear layers of eight bits.
FULL_WIDTH = (
    *("rms_norm", "add_rms_norm", "swiglu_packed", "rope"),
    *("qk_norm_rope", "score_head", "paged_attention"),
)
EIGHT_BITS = ("add_rms_norm_quantize", "quantize_rows", "quantized_gemm")

logger = logging.getLogger("fairslate.engine")


class KernelsDisagreeError(FairslateError):
    """A kernel does not run on this GPU, or gives other results there than its reference."""

    code = "kernels_disagree"


def check_kernels(settings: Settings) -> None:
    """Once for each engine, unless the settings say no or nothing of Triton would be launched.

    Raises KernelsDisagreeError. What it takes beyond the engine's own start is mostly compilation,
    of one shape a kernel, which Triton keeps for the next start on this machine.
    """
    device = torch.device(settings.device)
    on_gpu = device.type == "cuda" and torch.cuda.is_available() and triton is not None
    if not (settings.selfcheck and on_gpu):
        return
    started = time.perf_counter()
    dtype = torch.float32 if settings.dtype == "float32" else torch.bfloat16
    hold(served(settings.dtype), dtype, device)
    seconds = time.perf_counter() - started
    logger.info("the kernels agree with their references; to see that took %.1f s", seconds)


def served(dtype: str) -> list[Operation]:
    """The operations of a model that is served in this type, forward alone."""
    found = named([*FULL_WIDTH, *EIGHT_BITS])
    return [
        replace(operation, trained=())
        for operation in found
        if operation.name in FULL_WIDTH or operation.variant == dtype
    ]


def hold(operations: Sequence[Operation], dtype: torch.dtype, device: torch.device) -> None:
    """Raises KernelsDisagreeError that names each of the operations which is wrong there."""
    rows = [check(operation, "triton", dtype, device) for operation in operations]
    if wrong := [_told(row) for row in rows if not row.ok]:
        raise KernelsDisagreeError(
            f"on {device} these kernels disagree with their references: {'; '.join(wrong)}; see "
            "`python -m kernels.selfcheck`, serve with FAIRSLATE_DEVICE=cpu, or, to trust them all "
            "the same, with FAIRSLATE_SELFCHECK=0"
        )


def _told(row: Check) -> str:
    """On one line: whoever tries an engine shows the last one of what it said."""
    if row.max_error is None:
        return f"{row.op} in {row.dtype} ({' '.join(row.problem.split())})"
    return f"{row.op} in {row.dtype} (off by {row.max_error:.2g} of {row.bound:.2g})"
