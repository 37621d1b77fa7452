"""One figure of a bench beside its target. Measures nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One figure; `met` says on which side of the target it is."""

    name: str
    value: float
    target: float
    met: bool


def figure(name: str, value: float, target: float, better: Callable[[float, float], bool]) -> Row:
    """A row whose target is met when better(value, target)."""
    return Row(name, float(f"{value:.6g}"), target, better(value, target))
