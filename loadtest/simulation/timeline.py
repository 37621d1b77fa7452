"""Simulated time: events in order, ties by when they were planned. Knows no event's meaning."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count


class Timeline:
    """`now` in milliseconds, moved on by `run`."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def after(self, delay: float, event: Callable[[], None]) -> None:
        """Plans an event `delay` milliseconds from now."""
        heapq.heappush(self._events, (self.now + delay, next(self._order), event))

    def run(self, until: float) -> None:
        """Lets everything happen that is planned up to `until`."""
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = until
