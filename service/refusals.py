"""Who was refused a moment ago, so that the next is refused at once. Knows no path or class."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.gate.errors import TenantThrottledError

LONGEST_MS = 250  # far below what a queue at its cap takes to drain, and a retry a client notices


@dataclass(frozen=True, slots=True)
class _Refusal:
    message: str
    retry_after_ms: int
    until: float


class Refusals:
    """For one event loop. Tokenizing a slate costs many times what refusing it does.

    A tenant whose queue is at its cap is told so for LONGEST_MS at most without its slate being
    read; without that a flood takes the processor from those who are within their share.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._refused: dict[str, _Refusal] = {}

    def check(self, tenant: str) -> None:
        """Raises TenantThrottledError as the gate did, while that holds."""
        refusal = self._refused.get(tenant)
        if refusal is None:
            return
        if self._clock() < refusal.until:
            raise TenantThrottledError(refusal.message, retry_after_ms=refusal.retry_after_ms)
        del self._refused[tenant]

    @contextmanager
    def noting(self, tenant: str) -> Iterator[None]:
        """Around what may raise TenantThrottledError, which passes through."""
        try:
            yield
        except TenantThrottledError as error:
            retry_ms = error.retry_after_ms or 0
            until = self._clock() + min(retry_ms, LONGEST_MS) / 1000
            # Not the error: its traceback would keep the request.
            self._refused[tenant] = _Refusal(str(error), retry_ms, until)
            raise
