"""Whom the gate refused a moment ago, so that few of them are read. Knows no tree and no slate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from service.gate.errors import TenantThrottledError

LONGEST_MS = 250  # far below what a queue at its cap takes to drain, and a retry a client notices
LEAST_TRIALS = 32  # in LONGEST_MS more than one CPU engine scores for the tenant, so it stays busy
MOST_TRIALS = 512  # whoever needs more is not held back at all
SLACK = 1.25  # a period is so many times what the gate took to answer


@dataclass(slots=True)
class _Refusal:
    """What a node was told, and how many of its slates may try again within a period from `until`.

    period_s: longer than the gate takes to answer, so that the first who try are heard of in it.
    """

    message: str
    retry_after_ms: int
    until: float
    period_s: float
    trials: int
    tried: int = 0

    def ease(self, now: float) -> None:
        """Lets more try, for each period without another refusal."""
        while now >= self.until + self.period_s and self.trials <= MOST_TRIALS:
            self.until += self.period_s
            self.trials *= 2
            self.tried = 0


class Refusals:
    """For one event loop. Reading a slate costs many times what refusing it does.

    A node of a tenant whose queue is at its cap is told so for LONGEST_MS at most without its slate
    being read; without that a flood takes the processor from those who are within their share. Then
    a few may try, or all that come before the gate has answered the first would be read, the more
    the further behind the processor is: half as many as before, and twice as many in each period
    without another refusal.
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

    def refuses(self, node: str) -> bool:
        """Whether `check` would raise for the node alone."""
        return self._standing(node) is not None

    def enter(self, node: str) -> None:
        """The same for one node, and counts the slate that goes on to the gate."""
        self.check([node])
        if node in self._refused:
            self._refused[node].tried += 1

    @contextmanager
    def noting(self, node: str) -> Iterator[None]:
        """Around the gate's and the engines' work; TenantThrottledError passes through."""
        began = self._clock()
        try:
            yield
        except TenantThrottledError as error:
            if error.retry_after_ms:
                self._note(node, error, self._clock() - began)
            raise
        self._hasten(node, self._clock() - began)

    def _standing(self, node: str) -> _Refusal | None:
        refusal, now = self._refused.get(node), self._clock()
        if refusal is None:
            return None
        refusal.ease(now)
        free = refusal.trials > MOST_TRIALS or refusal.tried < refusal.trials
        return None if now >= refusal.until and free else refusal

    def _note(self, node: str, error: TenantThrottledError, took_s: float) -> None:
        """Not the error itself: its traceback would keep the request."""
        now, retry_ms = self._clock(), error.retry_after_ms or 0
        before, trials = self._refused.get(node), LEAST_TRIALS
        if before is not None:  # many that tried at once hear the same
            trials = before.trials if now < before.until else max(trials, before.trials // 2)
        until = now + min(retry_ms, LONGEST_MS) / 1000
        self._refused[node] = _Refusal(str(error), retry_ms, until, _period_s(took_s), trials)

    def _hasten(self, node: str, took_s: float) -> None:
        """The gate took no longer than the whole answer: it is behind no more than that now."""
        if node in self._refused:
            refusal = self._refused[node]
            refusal.period_s = min(refusal.period_s, _period_s(took_s))


def _period_s(took_s: float) -> float:
    return max(LONGEST_MS / 1000, SLACK * took_s)
