"""Who was refused a moment ago, so that the next is refused at once. Knows no tree and no slate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
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
    """For one event loop. Reading a slate costs many times what refusing it does.

    A node of a tenant whose queue is at its cap is told so for LONGEST_MS at most without its slate
    being read; without that a flood takes the processor from those who are within their share.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._refused: dict[str, _Refusal] = {}

    def check(self, nodes: Sequence[str]) -> None:
        """Raises TenantThrottledError as the gate did, while that holds for each of the nodes."""
        standing = [self._standing(node) for node in nodes]
        refused = [refusal for refusal in standing if refusal is not None]
        if len(refused) == len(nodes):
            first = min(refused, key=lambda refusal: refusal.retry_after_ms)
            raise TenantThrottledError(first.message, retry_after_ms=first.retry_after_ms)

    def _standing(self, node: str) -> _Refusal | None:
        refusal = self._refused.get(node)
        if refusal is not None and self._clock() >= refusal.until:
            del self._refused[node]
            return None
        return refusal

    @contextmanager
    def noting(self, node: str) -> Iterator[None]:
        """Around what may raise TenantThrottledError, which passes through."""
        try:
            yield
        except TenantThrottledError as error:
            retry_ms = error.retry_after_ms or 0
            until = self._clock() + min(retry_ms, LONGEST_MS) / 1000
            # Not the error: its traceback would keep the request.
            self._refused[node] = _Refusal(str(error), retry_ms, until)
            raise
