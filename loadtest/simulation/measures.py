"""Jain's index and service gaps between clients. Knows no engine and no gate."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations


def jain(values: Sequence[float]) -> float:
    """(sum x)^2 / (n sum x^2): 1 when all are equal, 1/n when one has everything; 1 for nothing."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


class Gaps:
    """The largest difference of two clients' service over any window in which both are backlogged.

    Service is per weight. O(clients^2) for each observation.
    """

    def __init__(self, weights: Sequence[int]) -> None:
        self._weights = weights
        self.restart()

    def restart(self) -> None:
        """Forgets all windows, as at the end of a warm-up."""
        self.largest = 0.0
        self._ranges: dict[tuple[int, int], tuple[float, float]] = {}

    def observe(self, service: Sequence[float], backlogged: Sequence[bool]) -> None:
        """Takes the clients' service so far, and whether each had work queued all along."""
        for pair in combinations(range(len(service)), 2):
            if not all(backlogged[client] for client in pair):
                self._ranges.pop(pair, None)
                continue
            one, other = (service[client] / self._weights[client] for client in pair)
            low, high = self._ranges.get(pair, (one - other, one - other))
            self._ranges[pair] = low, high = min(low, one - other), max(high, one - other)
            self.largest = max(self.largest, high - low)
