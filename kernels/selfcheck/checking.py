"""Runs every operation against its reference on this device. Knows no operation's inside.

What is wrong is told to whoever runs it: the command, or an engine that then does not start.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.catalogue.accuracy import relative_error
from kernels.catalogue.operation import (
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
from kernels.catalogue.shapes import SERVED, TINY

# Largest error over largest value. bf16 keeps eight bits, of which the interpreter's stores and a
# reference's intermediate results may each lose one.
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
# Steps of a grid of eight bits at its largest value, which a last bit of the operands may decide;
# two for fp8, to which the interpreter rounds towards zero.
STEPS = {torch.int8: 1.01 / 127, torch.float8_e4m3fn: 2.01 / 14}
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
    name, started = str(dtype).removeprefix("torch."), time.perf_counter()
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < operation.capability:
        bound, problem = BOUNDS[dtype], "skipped: the GPU is too old"
        return Check(operation.label, backend, name, 0.0, bound, True, 0.0, problem)
    try:
        error, bound = _worst(operation, backend, dtype, device)
        good, problem = error <= bound, ""
    except Exception as raised:  # one broken operation must not hide the state of the others
        error, bound, good = None, BOUNDS[dtype], False
        problem = f"{type(raised).__name__}: {raised}"[:300]
    seconds = round(time.perf_counter() - started, 3)
    return Check(operation.label, backend, name, error, bound, good, seconds, problem)


def _worst(
    operation: Operation, backend: str, dtype: torch.dtype, device: torch.device
) -> tuple[float, float]:
    """Error and bound of the result that comes nearest to its bound, or is the furthest past it."""
    model, tokens = (SERVED, SERVED_TOKENS) if device.type == "cuda" else (TINY, TINY_TOKENS)
    operands = operation.operands(Draw(device, dtype), model, tokens)
    truths = _results(operation, operation.truth(), widened(operands))
    actual = _results(operation, operation.function(), copied(operands) | {"backend": backend})
    if len(actual) != len(truths):
        raise ValueError(f"{len(actual)} results; the reference has {len(truths)}")
    pairs = [
        (
            relative_error(result, truth),
            STEPS.get(result.dtype, max(operation.bound, BOUNDS[dtype])),
        )
        for result, truth in zip(actual, truths, strict=True)
    ]
    return max(pairs, key=lambda pair: pair[0] / pair[1])


def _results(operation: Operation, function: Function, operands: Operands) -> list[Tensor]:
    if not operation.trained:
        return run(function, operands)
    with torch.no_grad():
        shapes = outputs_of(operation.truth()(**_without_backend(copied(operands))))
    upstream = upstream_of([output.float() for output in shapes if output.is_floating_point()])
    return run_with_gradients(function, operands, operation.trained, upstream)


def _without_backend(operands: Operands) -> Operands:
    return {name: value for name, value in operands.items() if name != "backend"}
