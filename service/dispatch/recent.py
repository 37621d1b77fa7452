"""One look that many share. Knows nothing of what is looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Seen = TypeVar("Seen")


class Recent(Generic[Seen]):
    """For one event loop: however many ask, at most one look is under way."""

    def __init__(self, look: Callable[[], Awaitable[Seen]], seconds: float) -> None:
        self._look = look
        self._seconds = seconds
        self._seen: asyncio.Task[Seen] | None = None
        self._good_until = 0.0

    def forget(self) -> None:
        """Has the next one who asks look anew."""
        self._seen = None

    async def get(self) -> Seen:
        """What was seen at most `seconds` ago, or what is seen now."""
        now = asyncio.get_running_loop().time()
        if self._seen is None or (self._seen.done() and now > self._good_until):
            self._seen = asyncio.ensure_future(self._timed())
        return await asyncio.shield(self._seen)

    async def _timed(self) -> Seen:
        seen = await self._look()
        self._good_until = asyncio.get_running_loop().time() + self._seconds
        return seen
