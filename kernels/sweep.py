"""Tries other block sizes and warps of our kernels side by side. Knows only their modules' names.

`python -m kernels.sweep --csv FILE` prints one row per setting, the present one among them. A
setting is a few module constants that a launcher reads anew at each call.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from kernels import machine, roofline
from kernels.bench import measure
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


SWEEPS = (
    Sweep(
        "cross_entropy",
        "cross_entropy_rows",
        grid(BLOCK=(4096, 8192, 16_384), WARPS=(8, 16, 32)),
        True,
    ),
    Sweep(
        "cross_entropy in place",
        "cross_entropy_rows",
        grid(BLOCK=(4096, 8192, 16_384), WARPS=(8, 16, 32)),
        True,
    ),
    Sweep(
        "divergence jsd", "divergence_rows", grid(BLOCK=(1024, 2048, 4096), WARPS=(4, 8, 16)), True
    ),
    Sweep(
        "linear_cross_entropy",
        "token_chunks",
        grid(CHUNK_BYTES=[{"cuda": 1 << n, "cpu": 1 << 26} for n in (28, 29, 30, 31)]),
        True,
    ),
    Sweep(
        "linear_distillation jsd",
        "token_chunks",
        grid(CHUNK_BYTES=[{"cuda": 1 << n, "cpu": 1 << 26} for n in (28, 29, 30, 31)]),
        True,
        LLAMA32_1B,
    ),
    Sweep("rms_norm", "norm_forward", grid(TILE=(1024, 2048, 4096, 8192)), False, tokens=32_768),
    Sweep(
        "add_rms_norm", "norm_forward", grid(TILE=(1024, 2048, 4096, 8192)), False, tokens=32_768
    ),
    Sweep(
        "rms_norm",
        "norm_backward",
        grid(TILE=(2048, 4096, 8192), WARPS=(4, 8), BYTES_AHEAD=(0, 16_384)),
        True,
        tokens=32_768,
    ),
    Sweep(
        "rope", "rope_kernel", grid(VALUES_PER_WARP=(256, 512, 1024, 2048)), False, tokens=32_768
    ),
)


def rivals_of(sweep: Sweep, device: torch.device) -> Rivals:
    """One call for each setting, named by it; the first is the present one."""
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
    for name, setting in _named(present, sweep.settings):
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
    return str(value.get("cuda")) if isinstance(value, dict) else str(value)


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
    parser.add_argument("--window", type=float, default=40.0, help="milliseconds a call is timed")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    best, where = roofline.measure(device, options.window), machine.description(device)
    with recording(options.json, options.csv) as file:
        for sweep in SWEEPS:
            if options.ops is None or sweep.label.split()[0] in options.ops:
                with unchanged(importlib.import_module(f"kernels.{sweep.module}")):
                    found = measure(_row(sweep), device, (), options.window, best)
                for record in found:
                    file.write(record | best.columns() | where)


def _row(sweep: Sweep) -> Special:
    mode = f"settings of {sweep.module}"
    return Special(sweep.label, mode, sweep.model.name, sweep.tokens, partial(rivals_of, sweep))


if __name__ == "__main__":
    main()
