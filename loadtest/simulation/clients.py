"""Who sends programs, and when. Knows no gate and no engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from random import Random
from typing import Protocol

from loadtest.simulation.requests import Program
from service.gate.job import Level


class Arrivals(Protocol):
    """When a client's programs begin.

    A closed client has `slots` programs open at most, each slot pausing one gap between two; an
    open one (`slots` = 0) starts a program at every gap, however many are open.
    """

    @property
    def slots(self) -> int:
        """Programs open at most, or 0."""
        ...

    def gap(self, random: Random, now: float) -> float:
        """Milliseconds until the next program begins."""
        ...


@dataclass(frozen=True, slots=True)
class Gamma:
    """Gaps of one mean (ms) and shape (1: Poisson, 0: constant)."""

    mean_ms: float
    shape: float = 1.0
    slots: int = 0

    def gap(self, random: Random, now: float) -> float:
        if not self.shape:
            return self.mean_ms
        return random.gammavariate(self.shape, self.mean_ms / self.shape)


@dataclass(frozen=True, slots=True)
class Within:
    """Poisson, but only from `begin_ms` to `end_ms`."""

    mean_ms: float
    begin_ms: float
    end_ms: float
    slots: int = 0

    def gap(self, random: Random, now: float) -> float:
        begin = max(now, self.begin_ms) + random.expovariate(1 / self.mean_ms)
        return begin - now if begin < self.end_ms else inf


@dataclass(slots=True)
class Bursts:
    """Poisson with `factor` times the rate during bursts; `on_ms` and `off_ms` are means."""

    mean_ms: float  # between bursts
    factor: float
    on_ms: float
    off_ms: float
    slots: int = 0
    _bursting: bool = field(default=True, init=False, repr=False)
    _until: float = field(default=0.0, init=False, repr=False)

    def gap(self, random: Random, now: float) -> float:
        at, work = now, random.expovariate(1.0)
        while True:
            rate = (self.factor if self._bursting else 1.0) / self.mean_ms
            if work <= rate * (self._until - at):
                return at + work / rate - now
            work -= rate * max(0.0, self._until - at)
            at = max(at, self._until)
            self._bursting = not self._bursting
            self._until = at + random.expovariate(
                1 / (self.on_ms if self._bursting else self.off_ms)
            )


@dataclass(frozen=True, slots=True)
class Client:
    """One tenant: a source of programs, well behaved or not."""

    name: str
    program: Callable[[Random], Program]
    arrivals: Arrivals
    good: bool = True
    about: str = ""  # for the reader of the figures
    paths: tuple[tuple[Level, ...], ...] = ()  # in the gate's tree, programs take turns at them
    tenant_level: int = 0

    def path(self, turn: int) -> tuple[Level, ...]:
        """Where the jobs of the client's `turn`-th program stand; by default a level of its own."""
        return self.paths[turn % len(self.paths)] if self.paths else (Level(self.name),)

    @property
    def accounts(self) -> list[str]:
        """Ids of the tenant nodes that the client's jobs are charged to."""
        paths = [self.path(turn)[: self.tenant_level + 1] for turn in range(len(self.paths) or 1)]
        return sorted({"/".join(level.name for level in path) for path in paths})

    @property
    def weight(self) -> int:
        """Weight of the client's tenant."""
        return self.path(0)[self.tenant_level].weight
