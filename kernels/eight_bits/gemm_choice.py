"""Who multiplies quantized rows fastest, by measurement where there is one. Multiplies nothing.

gemm_choices.json holds what `python -m kernels.bench.gemm_measure` found: a record for each GPU,
kind, layer and number of rows, with the microseconds of each provider. A layer or GPU that was
never measured follows what an H200 showed: eight bits pay from about 1024 rows on, int8 by our
kernel, fp8 by the vendor's, which ours does not reach.
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from pathlib import Path
from typing import Literal

import torch

# The weight as it was in 16 bits, our kernel, or the product of the vendor's library.
Provider = Literal["dense", "ours", "vendor"]
Layer = tuple[str, str, int, int]  # GPU, kind, columns, depth

CHOICES = Path(__file__).with_name("gemm_choices.json")
FEWEST_ROWS = 1024  # of a batch that pays for eight bits, unless measured otherwise
VENDOR_FP8 = (9, 0)  # row-wise scales in torch._scaled_mm; rows and columns in multiples of 16
KINDS = {torch.int8: "int8", torch.float8_e4m3fn: "fp8"}


def choose_provider(
    kind: torch.dtype, rows: int, columns: int, depth: int, device: torch.device
) -> Provider:
    """For `rows` rows of `kind`, int8 or float8_e4m3fn, and a weight (columns, depth).

    The nearest measured number of rows below decides; fewer rows than any measured go dense. A CPU
    multiplies int8 faster than anything else, and fp8 not at all.
    """
    if kind not in KINDS:
        raise TypeError(f"kind is {kind}; pass torch.int8 or torch.float8_e4m3fn")
    if device.type != "cuda":
        return "ours" if kind == torch.int8 else "dense"
    gpu = torch.cuda.get_device_name(device)
    measured = measured_choice(gpu, KINDS[kind], rows, columns, depth)
    return measured or _expected(kind, rows, columns, depth, device)


def measured_choice(gpu: str, kind: str, rows: int, columns: int, depth: int) -> Provider | None:
    """As `choose_provider` on the GPU of that name; None for a layer never measured there."""
    measured = _measured()[gpu, kind, columns, depth]
    if not measured:
        return None
    below = [count for count in measured if count <= rows]
    return measured[max(below)] if below else "dense"


def _expected(
    kind: torch.dtype, rows: int, columns: int, depth: int, device: torch.device
) -> Provider:
    if rows < FEWEST_ROWS:
        return "dense"
    if kind == torch.int8:
        return "ours"
    able = torch.cuda.get_device_capability(device) >= VENDOR_FP8
    return "vendor" if able and columns % 16 == depth % 16 == 0 else "dense"


@functools.cache
def _measured() -> defaultdict[Layer, dict[int, Provider]]:
    """The fastest provider by rows, for each layer measured."""
    found: defaultdict[Layer, dict[int, Provider]] = defaultdict(dict)
    for record in json.loads(CHOICES.read_text(encoding="utf-8")):
        times: dict[Provider, float] = record["microseconds"]
        layer = (record["gpu"], record["kind"], record["columns"], record["depth"])
        found[layer][record["rows"]] = min(times, key=lambda provider: times[provider])
    return found
