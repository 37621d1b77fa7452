"""Times providers in turns on fresh slates, and states what came out. Knows no engine and no peer.

Every call is timed from token ids to floats on the host. `gemm_fraction` sets the linear-layer
operations a slate cannot do without over the rate of one 4096 x 4096 x 4096 bf16 product in the
same run.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch

from models.benches.shapes import Shape, linear_operations
from models.engines.base import ScoreJob

Score = Callable[[Sequence[ScoreJob]], list[list[float]]]
FEWEST_ROUNDS = 5
LIMIT_SIZE = 4096


@dataclass(frozen=True, slots=True)
class Provider:
    """Who scores: `score` takes `jobs` slates a call and gives the raw logits of each.

    calls: in a row when its turn comes; a fast one needs more for its tail to be seen.
    held_mb: device memory it keeps between calls, weights and cache included.
    """

    name: str
    dtype: str
    score: Score
    jobs: int = 1
    calls: int = 1
    held_mb: float = 0.0

    def logits(self, jobs: Sequence[ScoreJob]) -> list[float]:
        """Of all candidates, one slate a call."""
        return [logit for job in jobs for logit in self.score([job])[0]]


@dataclass(frozen=True, slots=True)
class Row:
    """One provider on one shape; milliseconds are of whole calls."""

    shape: str
    provider: str
    dtype: str
    cache: str
    jobs_per_call: int
    calls: int
    items_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    peak_mb: float | None
    gemm_fraction: float
    max_abs_dp: float | None = None


@dataclass(slots=True)
class _Readings:
    """What the calls of one provider took."""

    seconds: list[float] = field(default_factory=list)
    operations: int = 0
    peak_mb: float = 0.0


def measure(
    shape: Shape, providers: Sequence[Provider], cache: str, seconds: float, limit: float
) -> list[Row]:
    """Rounds of all providers for about `seconds`, at least a few; no two calls share a slate.

    cache: "warm" keeps one context, whose first calls are not counted; "cold" draws a fresh one for
    every slate. limit: operations a second of `gemm_rate`.
    """
    stream = shape.jobs(seed=17, same_context=cache == "warm")
    _warm_up(providers, stream)
    readings = {provider.name: _Readings() for provider in providers}
    started, rounds = time.perf_counter(), 0
    while rounds < FEWEST_ROUNDS or time.perf_counter() - started < seconds:
        for provider in providers:
            for _ in range(provider.calls):
                jobs = list(islice(stream, provider.jobs))
                counted = [linear_operations(shape.config, job, cache == "warm") for job in jobs]
                readings[provider.name].operations += sum(counted)
                _call(provider, jobs, readings[provider.name])
        rounds += 1
    return [_row(shape, who, cache, readings[who.name], limit) for who in providers]


def gemm_rate(device: torch.device, repeats: int = 20) -> float:
    """Operations a second of a square bf16 product, the median of some."""
    a = torch.randn(LIMIT_SIZE, LIMIT_SIZE, device=device, dtype=torch.bfloat16)
    b, times = torch.randn_like(a), []
    for _ in range(repeats if device.type == "cuda" else 2):
        synchronize()
        started = time.perf_counter()
        for _ in range(repeats if device.type == "cuda" else 1):
            torch.mm(a, b)
        synchronize()
        times.append(time.perf_counter() - started)
    calls = repeats if device.type == "cuda" else 1
    return 2 * LIMIT_SIZE**3 * calls / sorted(times)[len(times) // 2]


def largest_dp(some: Sequence[float], others: Sequence[float]) -> float:
    """Largest difference of the probabilities two lists of raw logits stand for; NaN if any is."""
    return float(np.max(np.abs(_sigmoid(some) - _sigmoid(others))))


def reserved_mb() -> float:
    """Device memory torch has taken, graphs included."""
    return torch.cuda.memory_reserved() / 2**20 if torch.cuda.is_available() else math.nan


def release() -> None:
    """Gives back what nobody refers to, so that the next figures start from nothing."""
    gc.unfreeze()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def synchronize() -> None:
    """Waits for the device, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _warm_up(providers: Sequence[Provider], stream: Iterator[ScoreJob]) -> None:
    for _ in range(2):
        for provider in providers:
            provider.score(list(islice(stream, provider.jobs)))
    gc.collect()
    gc.freeze()  # as a service should once it is warm: no pauses to walk what will stay


def _call(provider: Provider, jobs: Sequence[ScoreJob], readings: _Readings) -> None:
    synchronize()
    before = _start_peak()
    started = time.perf_counter()
    provider.score(jobs)
    readings.seconds.append(time.perf_counter() - started)
    readings.peak_mb = max(readings.peak_mb, _peak_mb() - before)


def _row(shape: Shape, provider: Provider, cache: str, readings: _Readings, limit: float) -> Row:
    p50, p95, p99 = np.percentile(readings.seconds, (50, 95, 99)).tolist()
    taken = sum(readings.seconds)
    rate = provider.jobs * len(readings.seconds) / taken
    peak = provider.held_mb + readings.peak_mb
    return Row(
        shape=shape.name,
        provider=provider.name,
        dtype=provider.dtype,
        cache=cache,
        jobs_per_call=provider.jobs,
        calls=len(readings.seconds),
        items_per_s=round(rate * shape.candidates, 1),
        p50_ms=round(p50 * 1e3, 3),
        p95_ms=round(p95 * 1e3, 3),
        p99_ms=round(p99 * 1e3, 3),
        peak_mb=None if math.isnan(peak) else round(peak, 1),
        gemm_fraction=round(readings.operations / taken / limit, 4),
    )


def _start_peak() -> float:
    """Starts a new peak; returns what is allocated now, in MB."""
    if not torch.cuda.is_available():
        return math.nan
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated() / 2**20


def _peak_mb() -> float:
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else math.nan


def _sigmoid(logits: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
