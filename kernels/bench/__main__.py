"""Times every operation beside its rivals: `python -m kernels.bench --json - [--ops ...]`.

Prints one JSON line per operation, mode, shape and provider, the most telling shapes first, and
stops when `--budget` seconds are over. Knows no operation's inside.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from kernels.bench import roofline
from kernels.bench.choice import chosen_rows
from kernels.bench.launches import digests
from kernels.bench.measurement import Record, measure
from kernels.bench.plan import Row
from kernels.bench.providers import PROVIDERS
from kernels.bench.rivals import free
from kernels.bench.roofline import Roofline
from kernels.bench.special import Special
from kernels.bench.worker_pool import Job, WorkerPool, wait
from kernels.kept import machine
from kernels.kept.earlier import DIGEST, ROW_COLUMNS
from kernels.kept.records import recording


def run(options: argparse.Namespace) -> int:
    """Rows until the budget is spent; returns how many were left out."""
    device = torch.device(options.device)
    rows = chosen_rows(options, device)
    if not options.workers:
        best = roofline.measure(device, options.window)
        return _write(options, rows, partial(_measure_here, options, rows, best), best)
    job = Job(rows, device, options.providers, options.window, options.gate)
    with WorkerPool(job, options.workers) as pool:
        wait(pool, options.gate, options.prepare)
        best = roofline.measure(device, options.window)
        pool.begin(best)
        return _write(options, rows, pool.measure, best)


def _measure_here(
    options: argparse.Namespace, rows: Sequence[Row | Special], best: Roofline, index: int
) -> list[Record]:
    device = torch.device(options.device)
    try:
        return measure(rows[index], device, options.providers, options.window, best)
    finally:
        free(device)


def _write(
    options: argparse.Namespace,
    rows: Sequence[Row | Special],
    measured: Callable[[int], list[Record]],
    best: Roofline,
) -> int:
    launched = {} if options.device == "cpu" else digests(rows)
    started, where = time.monotonic(), machine.description(torch.device(options.device))
    with recording(options.json, options.csv) as file:
        for index, row in enumerate(rows):
            if time.monotonic() - started > options.budget:
                return len(rows) - index
            begun = time.monotonic()
            try:
                found = measured(index)
            except Exception as error:  # operands that do not fit, or a module that is broken
                problem = f"{row.name} {row.mode} {row.tokens}: {error!r}"
                print(problem[:300], file=sys.stderr)
                continue
            for record in found:
                key = tuple(str(record[name]) for name in ROW_COLUMNS)
                file.write(record | best.columns() | where | {DIGEST: launched.get(key, "")})
            print(f"{time.monotonic() - begun:.1f} s: {row.name} {row.mode}", file=sys.stderr)
    return 0


def main() -> None:
    """Prints rows; says on standard error how many the budget left out."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--json", default="-", help="file of JSON lines, - for standard output")
    parser.add_argument("--csv", type=Path, default=None, help="file the rows are appended to")
    parser.add_argument("--ops", nargs="*", default=None, help="names; default: all")
    patterns = "shell patterns of 'operation mode models tokens', such as '* 256', in order"
    parser.add_argument("--rows", nargs="*", default=["*"], help=patterns)
    parser.add_argument(
        "--missing",
        type=Path,
        help="only rows that are not in this CSV file, or are of code changed since",
    )
    parser.add_argument("--providers", nargs="*", default=list(PROVIDERS))
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds of timing")
    parser.add_argument("--window", type=float, default=60.0, help="milliseconds a call is timed")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes that compile ahead")
    parser.add_argument(
        "--prepare", type=float, default=120.0, help="seconds to compile, once --gate is there"
    )
    parser.add_argument("--gate", type=Path, help="file before whose existence nothing is timed")
    gc.freeze()  # what is imported stays: collecting it again and again takes longer than the rows
    left_out = run(parser.parse_args())
    gc.unfreeze()
    if left_out:
        print(f"{left_out} rows left out: the budget is spent", file=sys.stderr)


if __name__ == "__main__":
    main()
