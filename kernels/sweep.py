"""Tries other block sizes and warps of our kernels side by side. Knows only their modules' names.

`python -m kernels.sweep --csv FILE` prints one row per setting, the present one among them. A
setting is a few module constants that a launcher reads anew at each call.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from kernels import machine, roofline
from kernels.bench_records import measure
from kernels.catalogue import Draw
from kernels.providers import Task
from kernels.records import recording
from kernels.rivals import Rivals
from kernels.shapes import LLAMA32_1B, QWEN3_06B, ModelShape
from kernels.special import Special
from kernels.table import OPERATIONS
from kernels.timing import Call

Setting = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sweep:
    """Values to try of constants of one module, for one entry of the table."""

    label: str
    module: str
    settings: Sequence[Setting]
    backward: bool
    model: ModelShape = QWEN3_06B
    tokens: int = 8192


def grid(**values: Sequence[Any]) -> list[Setting]:
    """All combinations."""
    return [
        dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())
    ]


CHUNKS = grid(CHUNK_BYTES=[{"cuda": 1 << power, "cpu": 1 << 26} for power in (28, 29, 30, 31)])
ROWS = grid(BLOCK=(2048, 4096, 8192, 16_384), WARPS=(8, 16, 32))
NARROW = {16: 4, 32: 4, 64: 4, 128: 4}  # warps by the rows of an attention tile
KEYS = grid(
    BLOCK_KEYS=(32, 64, 128),
    STAGES=(2, 3, 4),
    WARPS=(NARROW | {128: 8}, NARROW | {64: 8, 128: 8}, NARROW),
)
# Rows, columns and depth of a tile, its warps and stages.
TILES = (
    (128, 256, 128, 8, 3),
    (128, 256, 64, 8, 4),
    (256, 128, 128, 8, 3),
    (128, 128, 128, 8, 3),
    (128, 128, 128, 8, 4),
    (128, 128, 128, 4, 4),
    (128, 128, 64, 8, 5),
    (128, 64, 128, 4, 4),
    (64, 128, 128, 4, 4),
    (64, 64, 128, 4, 4),
    (64, 64, 256, 4, 3),
)
PRODUCTS = [{"SPEEDS": {tile: 1.0}} for tile in TILES]
LONG = 32_768

SWEEPS = (
    Sweep("cross_entropy in place", "cross_entropy_rows", ROWS, True),
    Sweep("paged_attention", "paged_attention_kernel", KEYS, False, tokens=2048),
    Sweep("paged_attention", "paged_attention_kernel", KEYS, False),
    *(
        Sweep(f"quantized_gemm {name}", "gemm_tiles", PRODUCTS, False, tokens=tokens)
        for tokens in (512, 2048, 8192)
        for name in ("int8", "fp8")
    ),
    Sweep("linear_cross_entropy", "token_chunks", CHUNKS, True),
    Sweep("linear_distillation jsd", "token_chunks", CHUNKS, True, LLAMA32_1B),
    Sweep("rms_norm", "norm_forward", grid(TILE=(1024, 2048, 4096, 8192)), False, tokens=LONG),
    Sweep("add_rms_norm", "norm_forward", grid(TILE=(1024, 2048, 4096, 8192)), False, tokens=LONG),
    Sweep(
        "rms_norm",
        "norm_backward",
        grid(TILE=(2048, 4096, 8192), WARPS=(4, 8), BYTES_AHEAD=(0, 16_384)),
        True,
        tokens=LONG,
    ),
    Sweep("rope", "rope_kernel", grid(VALUES_PER_WARP=(256, 512, 1024, 2048)), False, tokens=LONG),
    Sweep(
        "divergence jsd", "divergence_rows", grid(BLOCK=(1024, 2048, 4096), WARPS=(4, 8, 16)), True
    ),
)


def rivals_of(sweep: Sweep, device: torch.device, part: int = 0, parts: int = 1) -> Rivals:
    """One call for each setting, named by it; the first of all is the present one."""
    operation = next(entry for entry in OPERATIONS if entry.label == sweep.label)
    small = device.type == "cpu"
    operands = operation.operands(
        Draw(device, torch.bfloat16), sweep.model, 16 if small else sweep.tokens
    )
    task = Task(operation, operands, sweep.backward)
    module = importlib.import_module(f"kernels.{sweep.module}")
    present = {name: getattr(module, name) for name in sweep.settings[0]}
    rivals = Rivals(device, operation.cost(operands, sweep.backward), None)
    (function,) = task.functions("ours").values()
    for name, setting in list(_named(present, sweep.settings))[part::parts]:
        rivals.add(name, partial(_bound, module, setting, task.call(function)), list)
    return rivals


@contextlib.contextmanager
def unchanged(module: ModuleType) -> Iterator[None]:
    """Gives a module's constants their values back at the end."""
    before = dict(vars(module))
    try:
        yield
    finally:
        vars(module).update(before)


def _named(present: Setting, settings: Sequence[Setting]) -> Iterator[tuple[str, Setting]]:
    yield "present", present
    for setting in settings:
        if setting != present:
            yield " ".join(f"{key}={_short(value)}" for key, value in setting.items()), setting


def _short(value: Any) -> str:
    return str(value).replace(" ", "")


def _bound(module: Any, setting: Setting, call: Call) -> Call:
    """The call under the setting; a captured graph keeps what it was captured with."""

    def under_setting() -> object:
        vars(module).update(setting)
        return call()

    return under_setting


def main() -> None:
    """Prints a row for each setting that runs, and why not for each that does not."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--json", default="-", help="file of JSON lines, - for standard output")
    parser.add_argument("--csv", type=Path, default=None, help="file the rows are appended to")
    parser.add_argument("--ops", nargs="*", default=None, help="names; default: all")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds")
    parser.add_argument("--window", type=float, default=20.0, help="milliseconds a call is timed")
    parser.add_argument("--warm", metavar="I/N", help="only compile, every Nth setting from I")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    started, device = time.monotonic(), torch.device(options.device)
    chosen = [s for s in SWEEPS if options.ops is None or s.label.split()[0] in options.ops]
    if options.warm:
        part, parts = map(int, options.warm.split("/"))
        for sweep in chosen:
            rivals_of(sweep, device, part, parts)
        return
    best, where = roofline.measure(device, options.window), machine.description(device)
    with recording(options.json, options.csv) as file:
        for sweep in chosen:
            if time.monotonic() - started > options.budget:
                break
            with unchanged(importlib.import_module(f"kernels.{sweep.module}")):
                found = measure(_row(sweep), device, (), options.window, best)
            for record in found:
                file.write(record | best.columns() | where)


def _row(sweep: Sweep) -> Special:
    mode = f"settings of {sweep.module}"
    return Special(sweep.label, mode, sweep.model.name, sweep.tokens, partial(rivals_of, sweep))


if __name__ == "__main__":
    main()
