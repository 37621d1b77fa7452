"""Holds the calls that one row of a benchmark compares and judges their results. Times none."""

from __future__ import annotations

import contextlib
import gc
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from kernels.base.variant import Cost
from kernels.bench.plan import Row
from kernels.bench.providers import Task
from kernels.bench.timing import Call
from kernels.catalogue.accuracy import worst_error
from kernels.catalogue.operation import Draw

MEGABYTE = 1e6
PATIENCE = 12  # seconds for one provider to compile and be judged


@dataclass(slots=True)
class Rivals:
    """Calls by provider, with what is known of each before it is timed."""

    device: torch.device
    cost: Cost
    truth: Sequence[Tensor] | None  # None: not compared
    calls: dict[str, Call] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)  # MB beyond the operands
    notes: dict[str, str] = field(default_factory=dict)
    repeated: dict[str, int] = field(default_factory=dict)  # runs in one call, 1 unless named

    def add(
        self, provider: str, make: Callable[[], Call], results: Callable[[], Sequence[Tensor]]
    ) -> None:
        """Takes a provider in, or notes why it cannot run: that is a finding, not the end."""
        try:
            with deadline(PATIENCE):
                call = make()
                self.peaks[provider] = peak_megabytes(call, self.device)
                if self.truth is not None:
                    self.errors[provider] = worst_error(results(), self.truth)
            self.calls[provider] = call
        except Exception as error:
            self.notes[provider] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        free(self.device)


def rivals_of(row: Row, device: torch.device, providers: Sequence[str]) -> Rivals:
    """All providers of an operation, each on operands of its own."""
    operands = row.operation.operands(Draw(device, torch.bfloat16), row.model, row.tokens)
    task = Task(row.operation, operands, row.backward)
    rivals = Rivals(device, row.operation.cost(operands, row.backward), _truth(task))
    for provider in providers:
        for name, function in task.functions(provider).items():
            rivals.add(name, partial(task.call, function), partial(task.results, function))
    rivals.truth = None
    return rivals


def compile_row(row: Row, device: torch.device, providers: Sequence[str]) -> None:
    """Leaves compiled in this process what timing the row will call.

    Raises torch.OutOfMemoryError if not even the operands fit.
    """
    operands = row.operation.operands(Draw(device, torch.bfloat16), row.model, row.tokens)
    task = Task(row.operation, operands, row.backward)
    for provider in providers:
        for function in task.functions(provider).values():
            with contextlib.suppress(Exception), deadline(PATIENCE):
                task.compile(function)
            free(device)


@contextlib.contextmanager
def deadline(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in the block when it takes longer; for the main thread."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"not ready after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _truth(task: Task) -> Sequence[Tensor] | None:
    """The truth may need more memory than any provider; then nothing is compared."""
    try:
        return task.truth()
    except torch.OutOfMemoryError:
        return None


def peak_megabytes(call: Call, device: torch.device) -> float:
    """Memory of one warmed call beyond what was allocated before it; 0 on a CPU."""
    call()
    if device.type != "cuda":
        return 0.0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / MEGABYTE


def free(device: torch.device, above: float = 0.5) -> None:
    """Returns the memory of a GPU of which more than this share is reserved, in whole pieces."""
    if device.type != "cuda":
        return
    total = torch.cuda.get_device_properties(device).total_memory
    if torch.cuda.memory_reserved(device) > total * above:
        gc.collect()
        torch.cuda.empty_cache()
