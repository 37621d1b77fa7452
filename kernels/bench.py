"""Times every operation beside its rivals: `python -m kernels.bench --json - [--ops ...]`.

Prints one JSON line per operation, mode, shape and provider, the most telling shapes first, and
stops when `--budget` seconds are over. Knows no operation's inside.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kernels import gemm_rivals, machine, rivals, roofline
from kernels.bench_plan import Row, plan
from kernels.providers import PROVIDERS
from kernels.records import recording
from kernels.rivals import Rivals
from kernels.roofline import Roofline
from kernels.shapes import TINY
from kernels.special import SPECIAL, Special
from kernels.table import named
from kernels.timing import Timing, time_side_by_side
from kernels.variant import Cost

Record = dict[str, Any]
CPU_TOKENS = (8,)
WARM_MEMORY = 0.07  # share of the GPU that one of several warming processes may take
TIMING_COLUMNS = ("median_us", "p20_us", "p80_us", "repeats", "method")
RATE_COLUMNS = ("gb_per_s", "tflop_per_s", "share", "share_of")


def records(
    row: Row | Special, found: Rivals, timings: dict[str, Timing], best: Roofline
) -> list[Record]:
    """One for each provider, those that failed included, without their figures."""
    return [
        {
            "op": row.name,
            "mode": row.mode,
            "model": row.model_names,
            "tokens": row.tokens,
            "dtype": "bfloat16",
            "provider": provider,
            **_figures(timings.get(provider), found.repeated.get(provider, 1), found.cost, best),
            "peak_mb": _rounded(found.peaks.get(provider), 1),
            "bytes": found.cost.bytes,
            "flops": found.cost.flops,
            "max_rel_error": _rounded(found.errors.get(provider), 8),
            "note": found.notes.get(provider, ""),
        }
        for provider in {**found.calls, **found.notes}
    ]


def _figures(timing: Timing | None, repeated: int, cost: Cost, best: Roofline) -> Record:
    if timing is None:
        return dict.fromkeys((*TIMING_COLUMNS, *RATE_COLUMNS), "")
    median = timing.median_us / repeated
    share, limit = best.share(cost, median)
    return {
        "median_us": round(median, 2),
        "p20_us": round(timing.p20_us / repeated, 2),
        "p80_us": round(timing.p80_us / repeated, 2),
        "repeats": timing.repeats,
        "method": timing.method,
        "gb_per_s": round(cost.bytes / median / 1e3, 1),
        "tflop_per_s": round(cost.flops / median / 1e6, 2),
        "share": round(share, 4),
        "share_of": limit,
    }


def _rounded(value: float | None, digits: int) -> float | str:
    return "" if value is None else round(value, digits)


def prepared(row: Row | Special, device: torch.device, providers: Sequence[str]) -> Rivals:
    """The row's calls, each made once."""
    torch._dynamo.reset()  # no shape inherits another's guards
    if isinstance(row, Special):
        return row.rivals(device)
    return rivals.rivals_of(row, device, providers)


def measure(
    row: Row | Special,
    device: torch.device,
    providers: Sequence[str],
    window_ms: float,
    best: Roofline,
) -> list[Record]:
    """Prepares, times and describes one row's providers."""
    found = prepared(row, device, providers)
    timings = time_side_by_side(found.calls, device, window_ms)
    return records(row, found, timings, best)


def warm(rows: Sequence[Row | Special], device: torch.device, providers: Sequence[str]) -> None:
    """Fills the compilers' caches on disk with what timing the rows will need."""
    for row in rows:
        with contextlib.suppress(Exception):  # what fails here fails, and is told, when it is timed
            if isinstance(row, Special):
                row.rivals(device)
            else:
                torch._dynamo.reset()
                rivals.warm(row, device, providers)


def chosen_rows(options: argparse.Namespace, device: torch.device) -> list[Row | Special]:
    """What matters most first; on a CPU tiny rows, which only prove that all of it works."""
    if device.type == "cpu":
        return [*plan(named(options.ops), (TINY,), CPU_TOKENS)]
    rows = plan(named(options.ops))
    first = sum(row.importance == 0 for row in rows)
    special, late = (
        [row for row in chosen if options.ops is None or row.name.split()[0] in options.ops]
        for chosen in ([*SPECIAL, *gemm_rivals.FIRST], gemm_rivals.LATER)
    )
    return [*rows[:first], *special, *rows[first:], *late]


def run(options: argparse.Namespace) -> int:
    """Rows until the budget is spent; returns how many were left out."""
    started, device = time.monotonic(), torch.device(options.device)
    rows = chosen_rows(options, device)
    if options.warm:
        part, parts = map(int, options.warm.split("/"))
        if device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(WARM_MEMORY)
        warm(rows[part::parts], device, [p for p in options.providers if p != "eager"])
        return 0
    gc.freeze()  # what is imported stays: collecting it again and again takes longer than the rows
    best, where = roofline.measure(device, options.window), machine.description(device)
    with recording(options.json, options.csv) as file:
        for done, row in enumerate(rows):
            if time.monotonic() - started > options.budget:
                return len(rows) - done
            try:
                found = measure(row, device, options.providers, options.window, best)
            except Exception as error:  # operands that do not fit, or a module that is broken
                print(f"{row.name} {row.mode} {row.tokens}: {error!r}"[:300], file=sys.stderr)
                rivals.free(device)
                continue
            for record in found:
                file.write(record | best.columns() | where)
    return 0


def main() -> None:
    """Prints rows; says on standard error how many the budget left out."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--json", default="-", help="file of JSON lines, - for standard output")
    parser.add_argument("--csv", type=Path, default=None, help="file the rows are appended to")
    parser.add_argument("--ops", nargs="*", default=None, help="names; default: all")
    parser.add_argument("--providers", nargs="*", default=list(PROVIDERS))
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds")
    parser.add_argument("--window", type=float, default=60.0, help="milliseconds a call is timed")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--warm", metavar="I/N", help="only fill caches, for every Nth row from I")
    left_out = run(parser.parse_args())
    gc.unfreeze()
    if left_out:
        print(f"{left_out} rows left out: the budget is spent", file=sys.stderr)


if __name__ == "__main__":
    main()
