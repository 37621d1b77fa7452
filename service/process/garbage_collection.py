"""Keeps garbage collection from stopping requests. Knows nothing of what they are."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

NEVER = 1_000_000  # passes over the middle generation, of thousands of objects each
IDLE_REQUESTS = 8
IDLE_PASS_SECONDS = 10.0
FORCED_PASS_SECONDS = 600.0  # at two thousand requests in flight it stops them for 0.6 s


def spare_collector() -> None:
    """Exempts all that lives now from garbage collection, when a process has started."""
    gc.collect()
    gc.freeze()


class GarbageCollector:
    """Makes the full passes of garbage collection when they stop nobody, or when they must.

    Beside 500 requests in flight a pass stopped them all for 0.3 s, every four seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()

    def take_over(self) -> None:
        """Has Python make no full pass by itself; `collect_if_due` must be called from then on."""
        young, middle, _old = gc.get_threshold()
        gc.set_threshold(young, middle, NEVER)

    def collect_if_due(self, in_flight: int) -> bool:
        """To be called about once a second; whether a pass was made."""
        age = self._clock() - self._last
        idle = in_flight <= IDLE_REQUESTS
        due = age >= (IDLE_PASS_SECONDS if idle else FORCED_PASS_SECONDS)
        if due:
            gc.collect()
            self._last = self._clock()
        return due
