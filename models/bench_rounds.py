"""Times providers in turns on fresh slates, and states what came out. Knows no engine and no peer.

Every call is timed from token ids to floats on the host. `gemm_fraction` sets the linear-layer
operations a slate cannot do without over the rate of one 4096 x 4096 x 4096 bf16 product in the
same run.
"""

from __future__ import annotations

import gc
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from models.bench_shapes import Shape, linear_operations
from models.engines.base import ScoreJob

Score = Callable[[Sequence[ScoreJob]], list[list[float]]]
FEWEST_ROUNDS = 5
LIMIT_SIZE = 4096


@dataclass(frozen=True, slots=True)
class Provider:
    """Who scores: `score` takes `jobs` slates a call and gives the raw logits of each.

    held_mb: device memory it keeps between calls, weights and cache included.
    """

    name: str
    dtype: str
    score: Score
    jobs: int = 1
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
    rounds: int
    items_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    peak_mb: float | None
    gemm_fraction: float
    max_abs_dp: float | None = None


@dataclass(slots=True)
class _Readings:
    """What the rounds of one provider left."""

    seconds: list[float]
    peak_mb: float = 0.0

    def add(self, provider: Provider, jobs: Sequence[ScoreJob]) -> None:
        before = _start_peak()
        started = time.perf_counter()
        provider.score(jobs)
        self.seconds.append(time.perf_counter() - started)
        self.peak_mb = max(self.peak_mb, _peak_mb() - before)


def measure(
    shape: Shape, providers: Sequence[Provider], cache: str, seconds: float, limit: float
) -> list[Row]:
    """Rounds of all providers for about `seconds`, at least a few.

    cache: "warm" keeps one context, whose first rounds are not counted; "cold" draws a fresh one
    each time. limit: operations a second of `gemm_rate`.
    """
    stream = shape.jobs(seed=17, same_context=cache == "warm")
    readings: defaultdict[str, _Readings] = defaultdict(lambda: _Readings([]))
    operations: list[int] = []
    slates = 1 + max(provider.jobs for provider in providers)
    _warm_up(providers, list(islice(stream, slates)))
    started = time.perf_counter()
    while len(operations) < FEWEST_ROUNDS or time.perf_counter() - started < seconds:
        jobs = list(islice(stream, slates))
        operations.append(linear_operations(shape.config, jobs[0], warm=cache == "warm"))
        for provider in providers:
            readings[provider.name].add(provider, _share(provider, jobs))
    per_job = sum(operations) / len(operations) / limit
    return [
        _row(shape, provider, cache, readings[provider.name], per_job) for provider in providers
    ]


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


def _share(provider: Provider, jobs: Sequence[ScoreJob]) -> Sequence[ScoreJob]:
    """The first slate, or the others: two ways of calling one engine must not warm each other."""
    return jobs[:1] if provider.jobs == 1 else jobs[1 : 1 + provider.jobs]


def _warm_up(providers: Sequence[Provider], jobs: Sequence[ScoreJob]) -> None:
    for _ in range(2):
        for provider in providers:
            provider.score(_share(provider, jobs))
    gc.collect()
    gc.freeze()  # as a service should once it is warm: no pauses to walk what will stay


def _row(
    shape: Shape, provider: Provider, cache: str, readings: _Readings, seconds_at_limit: float
) -> Row:
    p50, p95, p99 = np.percentile(readings.seconds, (50, 95, 99)).tolist()
    rate = provider.jobs * len(readings.seconds) / sum(readings.seconds)
    peak = provider.held_mb + readings.peak_mb
    return Row(
        shape=shape.name,
        provider=provider.name,
        dtype=provider.dtype,
        cache=cache,
        jobs_per_call=provider.jobs,
        rounds=len(readings.seconds),
        items_per_s=round(rate * shape.candidates, 1),
        p50_ms=round(p50 * 1e3, 3),
        p95_ms=round(p95 * 1e3, 3),
        p99_ms=round(p99 * 1e3, 3),
        peak_mb=None if math.isnan(peak) else round(peak, 1),
        gemm_fraction=round(seconds_at_limit * rate, 4),
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
