"""Threads for the work of requests, one piece per tenant at a time. Knows nothing of the work."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import ParamSpec, TypeVar

from service.gate.errors import TenantThrottledError

LEAST_RETRY_MS = 100

Given = ParamSpec("Given")
Result = TypeVar("Result")


class Turns:
    """For one event loop: the threads come before the gate, so they must be shared out too.

    A tenant has `most_waiting` requests waiting for its turn at most: more would fill the memory
    and make every pass of garbage collection a stop for all. Once so many wait it is refused until
    half of them have had theirs: were it one, all that come at once would be read for its place.
    """

    def __init__(self, threads: int, most_waiting: int) -> None:
        self._threads = ThreadPoolExecutor(threads, "request")
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._most_waiting = most_waiting
        self._waiting: Counter[str] = Counter()
        self._full: set[str] = set()
        self._seconds = 0.0  # of one piece of work, a moving average

    def check(self, tenant: str) -> None:
        """Raises TenantThrottledError while too many of the tenant's requests wait."""
        waiting = self._waiting[tenant]
        if waiting >= self._most_waiting:
            self._full.add(tenant)
        elif waiting <= self._most_waiting // 2:
            self._full.discard(tenant)
        if tenant in self._full:
            raise TenantThrottledError(
                f"{waiting} requests of the tenant wait to be read, and {self._most_waiting} are "
                "the most there may be; send fewer at once",
                retry_after_ms=max(LEAST_RETRY_MS, round(1000 * self._seconds * waiting)),
            )

    async def run(
        self,
        tenant: str,
        work: Callable[Given, Result],
        *arguments: Given.args,
        **named: Given.kwargs,
    ) -> Result:
        """What `work` returns or raises, in a thread, behind what the tenant sent before.

        Work that has begun keeps the turn until it ends, even when its caller is cancelled. Raises
        as `check`.
        """
        self.check(tenant)
        lock = self._locks[tenant]
        self._waiting[tenant] += 1
        try:
            await lock.acquire()
        finally:
            self._waiting[tenant] -= 1
        began = time.perf_counter()
        try:
            begun = self._threads.submit(work, *arguments, **named)
        except BaseException:
            lock.release()
            raise
        begun.add_done_callback(_releasing(lock, asyncio.get_running_loop()))
        result = await asyncio.wrap_future(begun)
        self._seconds += (time.perf_counter() - began - self._seconds) / 16
        return result


def _releasing(
    lock: asyncio.Lock, loop: asyncio.AbstractEventLoop
) -> Callable[[Future[Result]], None]:
    def release(_: Future[Result]) -> None:
        with suppress(RuntimeError):  # the loop has ended before the thread
            loop.call_soon_threadsafe(lock.release)

    return release
