"""Sends what concurrent callers ask for in common calls. Knows nothing of what is asked.

While one call is under way the next ones gather, so the call's fixed cost is shared under load
and nobody waits when there is none. Keys take turns: who has sent much waits behind itself alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from itertools import islice
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Coalescer(Generic[Item, Answer]):
    """For one event loop. `call` answers each item of a batch, in order."""

    def __init__(
        self, call: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]], most: int
    ) -> None:
        self._call = call
        self._most = most
        self._waiting: dict[Hashable, deque[tuple[Item, asyncio.Future[Answer]]]] = {}
        self._sender: asyncio.Task[None] | None = None

    async def send(self, item: Item, key: Hashable = None) -> Answer:
        """The item's answer, or what its batch failed with. Not sent if cancelled before."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append((item, future))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all())
        return await future

    async def _send_all(self) -> None:
        try:
            while batch := list(islice(self._in_turn(), self._most)):
                await self._answer(batch)
        finally:
            self._sender = None

    def _in_turn(self) -> Iterator[tuple[Item, asyncio.Future[Answer]]]:
        """One of each key after the other, without those whose caller gave up."""
        while self._waiting:
            key = next(iter(self._waiting))
            items = self._waiting.pop(key)
            item, future = items.popleft()
            if items:
                self._waiting[key] = items
            if not future.cancelled():
                yield item, future

    async def _answer(self, batch: Sequence[tuple[Item, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._call([item for item, _ in batch])
            answered = list(zip(batch, answers, strict=True))
        except Exception as error:  # whatever it is, every caller of the batch must hear of it
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in answered:
            if not future.done():
                future.set_result(answer)
