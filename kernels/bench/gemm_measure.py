"""Times who multiplies quantized rows fastest on this GPU, for the choice between them.

`python -m kernels.bench.gemm_measure` adds this GPU's records to gemm_choices.json in place of
those it had, and prints them. Products only: where the kernel before quantizes rows, that is free.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.bench.gemm_rivals import layers as layers_of
from kernels.bench.timing import time_side_by_side
from kernels.catalogue.shapes import MODELS
from kernels.eight_bits.gemm_choice import CHOICES, KINDS
from kernels.eight_bits.quantize import quantize_rows_reference
from kernels.quantized_gemm import quantized_gemm
from kernels.quantized_linear import vendor_gemm

ROWS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
Record = dict[str, Any]


def layers() -> list[tuple[int, int]]:
    """(columns, depth) of the linear layers of all models."""
    return sorted({shape for model in MODELS for shape in layers_of(model).values()})


def measured(device: torch.device, window_ms: float) -> Iterator[Record]:
    """A record for each kind, layer and number of rows."""
    for columns, depth in layers():
        weight = torch.randn(columns, depth, device=device).bfloat16() * depth**-0.5
        for rows in ROWS:
            x = torch.randn(rows, depth, device=device).bfloat16()
            for kind in KINDS:
                times = time_side_by_side(_providers(x, weight, kind), device, window_ms)
                yield {
                    "gpu": torch.cuda.get_device_name(device),
                    "kind": KINDS[kind],
                    "columns": columns,
                    "depth": depth,
                    "rows": rows,
                    "microseconds": {name: round(t.median_us, 2) for name, t in times.items()},
                }


def _providers(x: Tensor, weight: Tensor, kind: torch.dtype) -> dict[str, Callable[[], object]]:
    a, a_scales = quantize_rows_reference(x, kind)
    b, b_scales = quantize_rows_reference(weight, kind)
    operands = (a, b, a_scales, b_scales)
    calls: dict[str, Callable[[], object]] = {
        "dense": partial(F.linear, x, weight),
        "ours": partial(quantized_gemm, *operands),
        "vendor": partial(vendor_gemm, *operands),
    }
    return {name: call for name, call in calls.items() if _runs(call)}


def _runs(call: Callable[[], object]) -> bool:
    try:
        call()
    except (RuntimeError, NotImplementedError):  # this torch or GPU has no such product
        return False
    return True


def main() -> None:
    """Measures on the first GPU and writes what was found."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--window", type=float, default=15.0, help="milliseconds a call is timed")
    window_ms = parser.parse_args().window
    found = []
    for record in measured(torch.device("cuda", 0), window_ms):
        print(json.dumps(record), flush=True)
        found.append(record)
    others = [r for r in json.loads(CHOICES.read_text("utf-8")) if r["gpu"] != found[0]["gpu"]]
    lines = ",\n".join(json.dumps(record) for record in others + found)
    CHOICES.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
