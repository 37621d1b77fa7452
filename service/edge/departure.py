"""Lets an API process that is told to stop finish what it has begun. Knows no request's meaning.

The listening socket belongs to BentoML's arbiter, which keeps it to the end: if the process stopped
to accept, whoever connects meanwhile would wait in vain. So until it has nothing left to answer the
process refuses the new ones, and only then passes the signal on. The engines end anybody's wait,
and whoever then still reads or writes too slowly is hung up on.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import cast

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.base.errors import ServerStoppingError
from service.edge.inbox import request_identifier
from service.edge.routes import error_response

RETRY_AFTER_MS = 1000
Handler = Callable[[int, FrameType | None], object]


class Departure:
    """One per process: what is in flight, and whether the process leaves."""

    def __init__(self) -> None:
        self._in_flight = 0
        self._go: Callable[[], object] | None = None
        self.leaving = False

    @contextlib.contextmanager
    def heeding_sigterm(self, patience_s: float, hang_up: Callable[[], object]) -> Iterator[None]:
        """Stands before the handler of SIGTERM, in the main thread, while the block lasts.

        hang_up: ends what is in flight after the patience, and lets go of what nobody reads.
        """
        loop = asyncio.get_running_loop()
        handler = cast("Handler", signal.getsignal(signal.SIGTERM))

        def hear(number: int, _: FrameType | None) -> None:
            loop.call_soon_threadsafe(self.leave, lambda: handler(number, None))
            loop.call_soon_threadsafe(loop.call_later, patience_s, hang_up)

        signal.signal(signal.SIGTERM, hear)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, handler)

    def leave(self, go: Callable[[], object]) -> None:
        """Calls `go` once, when nothing is in flight."""
        if not self.leaving:  # a service manager may tell every process, and the arbiter again
            self.leaving, self._go = True, go
            self._leave_if_idle()

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """One is in flight while the block lasts."""
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1
            self._leave_if_idle()

    def _leave_if_idle(self) -> None:
        if self._go and not self._in_flight:
            go, self._go = self._go, None
            go()


class RefusedOnDeparture:
    """ASGI middleware; probes are refused as well, so that a load balancer turns elsewhere."""

    def __init__(self, app: ASGIApp, departure: Departure) -> None:
        self._app = app
        self._departure = departure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Counts what it passes on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._departure.leaving:
            await _refusal(Request(scope))(scope, receive, send)
        else:
            with self._departure.request():
                await self._app(scope, receive, send)


def _refusal(request: Request) -> ASGIApp:
    error = ServerStoppingError("this server stops; retry shortly", retry_after_ms=RETRY_AFTER_MS)
    response = error_response(error, request_identifier(request))
    response.headers["connection"] = "close"
    return response
