"""Processes that take turns on the same slates, one at a time. Knows no provider's inside.

The parent of `models.benches.worker`: every provider has a process of its own, so that its memory
is its own, and they score one after another, round after round, so that a busy minute hits all.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from models.engines.base import ScoreJob
from models.errors import FairslateError
from models.packing import TokenIds

PAUSE_S = 0.05  # until the threads of the one before have ceased to spin
SLOW_S = 1.0  # a call that takes longer has only a few turns
FEWEST_TURNS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Spec:
    """A provider: who, in what arithmetic, and what its process is told.

    python: the interpreter of its environment. options: for its builder in `models.benches.worker`.
    prepare: to be called before its process starts, such as an export that it reads.
    """

    provider: str
    dtype: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    python: str = sys.executable
    prepare: Callable[[], None] | None = None

    def argument(self) -> str:
        """What the process is told."""
        return json.dumps({"kind": self.kind, "dtype": self.dtype, **self.options})


@dataclass(frozen=True, slots=True)
class Slate:
    """A job, and a candidate of no job, by which its context becomes known."""

    job: ScoreJob
    primer: TokenIds

    @property
    def priming(self) -> ScoreJob:
        """The context with the candidate of no job."""
        return ScoreJob(self.job.context_ids, self.job.block_hashes, (self.primer,))


@dataclass(frozen=True, slots=True)
class Reading:
    """One call of one provider."""

    job: ScoreJob
    seconds: float
    peak_mb: float  # above what was resident after loading
    logits: Sequence[float]


class ProviderError(FairslateError):
    """A provider failed or ended; the message is its own."""


class Process:
    """One provider, started and loaded."""

    def __init__(self, spec: Spec) -> None:
        if spec.prepare is not None:
            spec.prepare()
        command = [spec.python, "-m", "models.benches.worker", spec.argument()]
        self.spec = spec
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.loaded_mb = float(self._receive()["loaded_mb"])

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def score(self, job: ScoreJob) -> Reading:
        """Raises ProviderError; after an error of scoring the process goes on."""
        assert self._child.stdin is not None
        message = {"context": job.context_ids, "candidates": job.candidates}
        try:
            self._child.stdin.write(json.dumps(message) + "\n")
            self._child.stdin.flush()
        except BrokenPipeError as error:
            raise ProviderError(f"ended with {self._child.wait()}") from error
        answer = self._receive()
        if "error" in answer:
            raise ProviderError(answer["error"])
        return Reading(job, answer["seconds"], answer["peak_mb"], answer["logits"])

    def close(self) -> None:
        """Ends the process."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        self._child.wait()
        self._child.stdout.close()

    def _receive(self) -> Any:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise ProviderError(f"ended with {self._child.wait()}")
        return json.loads(line)


@dataclass(slots=True)
class Turns:
    """What came of a provider's turns."""

    readings: list[Reading] = field(default_factory=list)
    failure: str = ""


def take_turns(
    processes: Sequence[Process], slates: Iterator[Slate], rounds: int, warm: bool
) -> dict[Spec, Turns]:
    """All providers score each slate, first another one each round; who fails leaves the others.

    warm: the slate's context is made known first, its candidates never are. Slow providers take
    part in a few rounds alone. One more round, the first, is not counted.
    """
    turns = {process.spec: Turns() for process in processes}
    every = dict.fromkeys(turns, 1)
    for number in range(-1, rounds):
        slate = next(slates)
        shift = number % len(processes)
        for process in (*processes[shift:], *processes[:shift]):
            own = turns[process.spec]
            if own.failure or number % every[process.spec]:
                continue
            try:
                reading = _call(process, slate, warm)
            except ProviderError as error:
                own.failure = str(error)
                continue
            if number >= 0:
                own.readings.append(reading)
            elif reading.seconds > SLOW_S:
                every[process.spec] = max(1, rounds // FEWEST_TURNS)
    return turns


def _call(process: Process, slate: Slate, warm: bool) -> Reading:
    if warm or process.spec.kind == "product":  # which has no context, but threads to wake
        process.score(slate.priming)
    time.sleep(PAUSE_S)
    return process.score(slate.job)
