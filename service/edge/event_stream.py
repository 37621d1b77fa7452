"""Server-sent events of one answer: rows as they come, heartbeats, an end. Knows no rows.

Until the first row, or until the first heartbeat is due, nothing is sent: a refusal that comes by
then is an answer of its own status. Behind that it is an event `error`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

HEARTBEAT_SECONDS = 2.0
HEARTBEAT = b": the answer is on its way\n\n"
MEDIA_TYPE = "text/event-stream"

Answer = dict[str, Any]
Tell = Callable[[Answer], object]
Work = Callable[[Tell], Coroutine[Any, Any, Answer]]


def event(name: str, data: Answer) -> bytes:
    """One event. In ASCII: many clients break lines where Unicode does, and not at LF alone."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def is_acceptable(accept: str) -> bool:
    """Whether an Accept header names this type."""
    for part in accept.lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        if kind == MEDIA_TYPE:
            return not any(re.fullmatch(r"q=0(\.0*)?", parameter) for parameter in parameters)
    return False


class EventSource:
    """Runs `work`, which tells of rows and returns the answer that holds them."""

    def __init__(self, work: Work, refuse: Callable[[Exception], Answer]) -> None:
        """refuse: what the event `error` says of an error."""
        self._rows: deque[Answer] = deque()
        self._news = asyncio.Event()  # of a row, or of the end
        self._work = asyncio.create_task(work(self._tell))
        self._work.add_done_callback(lambda _: self._news.set())
        self._refuse = refuse

    async def wait(
        self, read: Coroutine[Any, Any, object], gone: Coroutine[Any, Any, object]
    ) -> None:
        """Until there is something to send. Raises what the work did by then.

        read: returns when the body is read; a response that begins before would read of it too.
        gone: returns when the client leaves, which raises ClientDisconnect.
        """
        news, reading, leaving = map(asyncio.create_task, (self._news.wait(), read, gone))
        try:
            await asyncio.wait({news, reading}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait(
                {news, leaving}, timeout=HEARTBEAT_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if leaving.done() and not self._news.is_set():
                raise ClientDisconnect
        finally:
            for task in (news, reading, leaving):
                task.cancel()
            await asyncio.gather(news, reading, leaving, return_exceptions=True)
        if self._work.done() and not self._rows:
            self._work.result()

    async def events(self) -> AsyncIterator[bytes]:
        """Rows, heartbeats between those that take long, and `done` or `error` at the end."""
        while True:
            self._news.clear()
            while self._rows:
                yield event("reason", self._rows.popleft())
            if self._work.done():
                break
            if not await self._hears():
                yield HEARTBEAT
        yield self._end()

    async def close(self) -> None:
        """Ends the work, whatever has been sent of it."""
        self._work.cancel()
        await asyncio.gather(self._work, return_exceptions=True)
        # The traceback of its error leads to this object: with the task it would be a circle.
        del self._work

    def _tell(self, row: Answer) -> None:
        self._rows.append(row)
        self._news.set()

    async def _hears(self) -> bool:
        """Whether there is news before a heartbeat is due."""
        with suppress(TimeoutError):
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                return await self._news.wait()
        return False

    def _end(self) -> bytes:
        error = self._work.exception()
        if isinstance(error, Exception):
            return event("error", self._refuse(error))
        answer = self._work.result()
        return event("done", {name: part for name, part in answer.items() if name != "results"})


class EventStream(StreamingResponse):
    """Sends the events of a source, and closes it when they end or the client has gone."""

    def __init__(self, source: EventSource, headers: dict[str, str]) -> None:
        own = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(source.events(), media_type=MEDIA_TYPE, headers=own | headers)
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._source.close()
