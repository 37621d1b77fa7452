"""Compiles rows of a benchmark in several processes, which then time them one at a time.

Compiling takes seconds a row and one core; timing takes a fraction of one and the device alone. A
process times what it compiled, for torch keeps most of what it compiles in memory. Knows no row's
inside and writes no file.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType

import torch

from kernels.bench.measurement import Record, compile_ahead, measure
from kernels.bench.plan import Row
from kernels.bench.rivals import free
from kernels.bench.roofline import Roofline
from kernels.bench.special import Special

# Of the GPU, shared by all while they compile: beside whatever else runs, and behind the gate.
MEMORY, MEMORY_ALONE = 0.6, 0.9
GRACE_SECONDS = 2.0
ROW_SECONDS = 90.0  # for one row; a process that needs more is ended


@dataclass(frozen=True, slots=True)
class Job:
    """What all processes are told.

    `window_ms` is how long a call is timed; before the file `gate` exists, others use the device.
    """

    rows: Sequence[Row | Special]
    device: torch.device
    providers: Sequence[str]
    window_ms: float
    gate: Path | None = None


class WorkerPool:
    """Processes that compile from the start; row i belongs to process i modulo their number."""

    def __init__(self, job: Job, size: int) -> None:
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # the processes take the cores
        context = multiprocessing.get_context("spawn")
        self._job = job
        self._links: list[Connection] = []
        self._processes: list[BaseProcess] = []
        for place in range(size):
            link, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(job, place, size, theirs), daemon=True)
            process.start()
            theirs.close()
            self._links.append(link)
            self._processes.append(process)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for link in self._links:
            with contextlib.suppress(OSError):
                link.send(None)
        for process in self._processes:
            process.join(GRACE_SECONDS)
            process.kill()
            process.join()

    def compiled(self) -> bool:
        """Whether all are through with their rows, or dead."""
        return all(link.poll() for link in self._links)

    def stop_compiling(self) -> None:
        """Returns when no process compiles any more."""
        for link in self._links:
            with contextlib.suppress(OSError):
                link.send(None)
        for link in self._links:
            with contextlib.suppress(OSError, EOFError):
                link.recv()

    def begin(self, best: Roofline) -> None:
        """Tells all what this device can do at best."""
        for link in self._links:
            with contextlib.suppress(OSError):
                link.send(best)

    def measure(self, index: int) -> list[Record]:
        """Records of one row. Raises RuntimeError with the reason why there are none."""
        place = index % len(self._links)
        link = self._links[place]
        try:
            link.send(index)
            if not link.poll(ROW_SECONDS):
                self._processes[place].kill()
            answer: list[Record] | str = link.recv()
        except (OSError, EOFError) as error:
            raise RuntimeError("its process is dead") from error
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer


def _serve(job: Job, place: int, size: int, link: Connection) -> None:
    """One process: compiles its rows until it is told to stop, then answers indices."""
    gc.freeze()  # what is imported stays: collecting it again and again takes longer than the rows
    _limit_memory(job.device, MEMORY / size)
    too_large = _compile(job, job.rows[place::size], link)
    while too_large and not _open(job.gate) and not link.poll(0.1):
        pass
    _limit_memory(job.device, MEMORY_ALONE / size)
    _compile(job, too_large, link)
    _limit_memory(job.device, 1.0)
    gc.freeze()
    link.send(None)
    link.recv()  # nobody compiles any more
    best: Roofline = link.recv()
    while (index := link.recv()) is not None:
        link.send(_answer(job, index, best))


def _compile(job: Job, rows: Sequence[Row | Special], link: Connection) -> list[Row | Special]:
    """Until a word comes over the link; returns the rows whose operands did not fit."""
    too_large = []
    for row in rows:
        if link.poll():
            break
        try:
            compile_ahead(row, job.device, job.providers)
        except torch.OutOfMemoryError:
            too_large.append(row)
        except Exception as error:  # what fails here fails, and is told, when it is timed
            print(f"{row.name} {row.mode} {row.tokens}: {error!r}"[:300], file=sys.stderr)
        _give_memory_back(job.device)
    return too_large


def _open(gate: Path | None) -> bool:
    return gate is None or gate.exists()


def _answer(job: Job, index: int, best: Roofline) -> list[Record] | str:
    try:
        return measure(job.rows[index], job.device, job.providers, job.window_ms, best)
    except Exception as error:  # operands that do not fit, or a module that is broken
        return repr(error)[:300]
    finally:
        _give_memory_back(job.device)


def _limit_memory(device: torch.device, share: float) -> None:
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(share)
        _give_memory_back(device)


def _give_memory_back(device: torch.device) -> None:
    free(device, above=0.0)


def wait(pool: WorkerPool, gate: Path | None, seconds: float) -> None:
    """For the file `gate`, then until all is compiled, but no longer than the seconds."""
    started = time.monotonic()
    while not _open(gate):
        time.sleep(0.1)
    opened = time.monotonic()
    while not pool.compiled() and time.monotonic() - opened < seconds:
        time.sleep(0.1)
    pool.stop_compiling()
    stopped = time.monotonic()
    told = f"compiled {opened - started:.0f} s before the gate, {stopped - opened:.0f} s behind it"
    print(told, file=sys.stderr)
