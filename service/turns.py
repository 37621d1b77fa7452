"""Threads for the work of requests, one piece per tenant at a time. Knows nothing of the work."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")


class Turns:
    """For one event loop: the threads come before the gate, so they must be shared out too."""

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, "request")
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def run(
        self,
        tenant: str,
        work: Callable[Given, Result],
        *arguments: Given.args,
        **named: Given.kwargs,
    ) -> Result:
        """What `work` returns or raises, in a thread, behind what the tenant sent before.

        Work that has begun keeps the turn until it ends, even when its caller is cancelled.
        """
        lock = self._locks[tenant]
        await lock.acquire()
        try:
            begun = self._threads.submit(work, *arguments, **named)
        except BaseException:
            lock.release()
            raise
        begun.add_done_callback(_releasing(lock, asyncio.get_running_loop()))
        return await asyncio.wrap_future(begun)


def _releasing(
    lock: asyncio.Lock, loop: asyncio.AbstractEventLoop
) -> Callable[[Future[Result]], None]:
    def release(_: Future[Result]) -> None:
        with suppress(RuntimeError):  # the loop has ended before the thread
            loop.call_soon_threadsafe(lock.release)

    return release
