"""Runs every operation against its reference on this device. Knows no operation's inside.

`python -m kernels.selfcheck --json -` prints one JSON line per operation, backend and dtype and
fails if one is wrong. Without a GPU the Triton rows run in Triton's interpreter. A service calls
`failed_operations` at its start and keeps to plain torch for those named.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from kernels.accuracy import worst_error
from kernels.catalogue import (
    Draw,
    Function,
    Operands,
    Operation,
    copied,
    outputs_of,
    run,
    run_with_gradients,
    upstream_of,
    widened,
)
from kernels.shapes import SERVED, TINY
from kernels.table import OPERATIONS, named

# Largest error over largest value. bf16 keeps eight bits, of which the interpreter's stores and a
# reference's intermediate results may each lose one.
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
TINY_TOKENS, SERVED_TOKENS = 5, 33


@dataclass(frozen=True, slots=True)
class Check:
    """One operation on one backend in one dtype, outputs and gradients together."""

    op: str
    backend: str
    dtype: str
    max_error: float | None  # None: it raised
    bound: float
    ok: bool
    seconds: float  # compilation included
    problem: str = ""


def check_all(
    operations: Sequence[Operation], backends: Sequence[str], device: torch.device
) -> Iterator[Check]:
    """A row each, as it is done."""
    for operation in operations:
        for dtype in operation.dtypes:
            for backend in backends:
                yield check(operation, backend, dtype, device)


def check(operation: Operation, backend: str, dtype: torch.dtype, device: torch.device) -> Check:
    """Compares with the reference on fp64 copies of the operands; raises nothing."""
    bound = operation.bounds.get(dtype, BOUNDS[dtype])
    name, error, problem, started = str(dtype).removeprefix("torch."), None, "", time.perf_counter()
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < operation.capability:
        return Check(operation.name, backend, name, 0.0, bound, True, 0.0, "skipped: GPU too old")
    try:
        error = _error(operation, backend, dtype, device)
    except Exception as raised:  # one broken operation must not hide the state of the others
        problem = f"{type(raised).__name__}: {raised}"[:300]
    good = error is not None and error <= bound
    seconds = round(time.perf_counter() - started, 3)
    return Check(operation.name, backend, name, error, bound, good, seconds, problem)


def _error(
    operation: Operation, backend: str, dtype: torch.dtype, device: torch.device
) -> float:
    model, tokens = (SERVED, SERVED_TOKENS) if device.type == "cuda" else (TINY, TINY_TOKENS)
    operands = operation.operands(Draw(device, dtype), model, tokens)
    function, reference = operation.function(), operation.truth()
    truths = _results(operation, reference, widened(operands))
    actual = _results(operation, function, copied(operands) | {"backend": backend})
    return worst_error(actual, truths)


def _results(operation: Operation, function: Function, operands: Operands) -> list[Tensor]:
    if not operation.trained:
        return run(function, operands)
    with torch.no_grad():
        shapes = outputs_of(operation.truth()(**_without_backend(copied(operands))))
    upstream = upstream_of([output.float() for output in shapes if output.is_floating_point()])
    return run_with_gradients(function, operands, operation.trained, upstream)


def _without_backend(operands: Operands) -> Operands:
    return {name: value for name, value in operands.items() if name != "backend"}


def failed_operations(device: torch.device | str = "cuda") -> set[str]:
    """Names of the operations whose Triton kernels are wrong here; of the torch paths on a CPU."""
    device = torch.device(device)
    backend = "triton" if device.type == "cuda" else "torch"
    return {row.op for row in check_all(OPERATIONS, [backend], device) if not row.ok}


def main() -> None:
    """Prints the rows; exit status 1 if any operation is wrong."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--json", default="-", help="file of JSON lines, - for standard output")
    parser.add_argument("--ops", nargs="*", default=None, help="names; default: all")
    parser.add_argument("--backends", nargs="*", default=["torch", "triton"])
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":  # before any operation's module imports Triton
        os.environ["TRITON_INTERPRET"] = "1"
    good = True
    with contextlib.ExitStack() as stack:
        stream = sys.stdout if options.json == "-" else stack.enter_context(open(options.json, "w"))
        for row in check_all(named(options.ops), options.backends, device):
            print(json.dumps(asdict(row)), file=stream, flush=True)
            good = good and row.ok
    sys.exit(not good)


if __name__ == "__main__":
    main()
