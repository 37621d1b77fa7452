"""Tries other block sizes and warps of our kernels side by side. Knows no kernel.

`python -m kernels.bench.sweep --csv FILE` prints one row per setting, the present one among them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from kernels.bench import roofline
from kernels.bench.measurement import measure
from kernels.bench.rivals import Rivals
from kernels.bench.special import Special
from kernels.bench.sweep_table import SWEEPS, Setting, Sweep
from kernels.bench.timing import Call
from kernels.kept import machine
from kernels.kept.records import recording


def rivals_of(sweep: Sweep, device: torch.device, part: int = 0, parts: int = 1) -> Rivals:
    """One call for each setting, named by it; the first of all is the present one.

    A setting whose result is not the present one's says by how much.
    """
    module = importlib.import_module(f"kernels.{sweep.module}")
    call, cost = sweep.prepare(device)
    present = {name: getattr(module, name) for name in sweep.settings[0]}
    rivals = Rivals(device, cost, _compared(call))
    for name, setting in list(_named(present, sweep.settings))[part::parts]:
        under = _bound(module, setting, call)
        rivals.add(name, partial(_same, under), partial(_compared, under))
    return rivals


def _compared(call: Call) -> list[Tensor]:
    """What a call returns if it is one tensor; results of a backward pass are not compared."""
    result = call()
    return [result.clone()] if isinstance(result, Tensor) else []


def _same(call: Call) -> Call:
    return call


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
            with unchanged(importlib.import_module(f"kernels.{sweep.module}")):
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
    mode = f"settings of {sweep.module.rpartition('.')[2]}"
    return Special(sweep.label, mode, sweep.model.name, sweep.tokens, partial(rivals_of, sweep))


if __name__ == "__main__":
    main()
