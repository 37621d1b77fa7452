"""Waits for what somebody else does. Knows nothing of what that is."""

from __future__ import annotations

import time
from collections.abc import Callable

POLL_SECONDS = 0.02


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Polls; raises TimeoutError naming `what` when it does not come."""
    give_up = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError(f"{what} did not come within {seconds} s")
        time.sleep(POLL_SECONDS)
