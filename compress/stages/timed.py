"""Trains by the clock, and keeps the averaged weights that did best on held-out data.

For a machine lent by the minute; a run that must repeat counts steps instead, see loop.
Knows nothing of models' insides or of what a step does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Batch = TypeVar("Batch")
LOSSES_KEPT = 20  # steps between two looks at the loss, each of which waits for the device


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds a phase may take, warm-up in steps, and how often held-out data are looked at."""

    seconds: float
    warmup: int
    evaluate_every: float
    average: float = 0.995  # decay of the averaged weights, a step
    floor: float = 0.02

    def factor(self, step: int, elapsed: float) -> float:
        """Multiplier of the peak rate: linear warm-up, then a cosine over the clock."""
        cosine = (1 + math.cos(math.pi * min(1.0, elapsed / self.seconds))) / 2
        return min(1.0, (step + 1) / self.warmup) * (self.floor + (1 - self.floor) * cosine)


def train_timed(
    weights: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Batch],
    loss_of: Callable[[Batch], Tensor],
    clock: Clock,
    evaluate: Callable[[], dict[str, float]],
    report: Callable[[dict[str, Any]], None],
) -> dict[str, float]:
    """Leaves in `weights` the average that had the best `select`; returns its metrics and steps."""
    averages = [weight.detach().clone() for weight in weights]
    best, kept = {"select": -math.inf}, [average.clone() for average in averages]
    peaks = [float(group["lr"]) for group in optimizer.param_groups]
    start = looked = time.monotonic()
    steps = 0
    while (elapsed := time.monotonic() - start) < clock.seconds:
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * clock.factor(steps, elapsed)
        loss = loss_of(next(batches))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        steps += 1
        decay = min(clock.average, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(averages, [weight.data for weight in weights], 1 - decay)
        if steps % LOSSES_KEPT == 0:
            last_loss = float(loss.detach())
            report({"steps": steps, "seconds": time.monotonic() - start, "loss": last_loss})
        if time.monotonic() - looked > clock.evaluate_every:
            best, kept = _better(best, kept, weights, averages, evaluate, steps, report)
            looked = time.monotonic()
    best, kept = _better(best, kept, weights, averages, evaluate, steps, report)
    _put(weights, kept)
    return best


def _better(
    best: dict[str, float],
    kept: list[Tensor],
    weights: Sequence[nn.Parameter],
    averages: list[Tensor],
    evaluate: Callable[[], dict[str, float]],
    steps: int,
    report: Callable[[dict[str, Any]], None],
) -> tuple[dict[str, float], list[Tensor]]:
    trained = [weight.detach().clone() for weight in weights]
    _put(weights, averages)
    metrics = evaluate() | {"at_steps": steps}
    _put(weights, trained)
    report(dict(metrics))
    if metrics["select"] <= best["select"]:
        return best, kept
    return metrics, [average.clone() for average in averages]


@torch.no_grad()
def _put(weights: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)
