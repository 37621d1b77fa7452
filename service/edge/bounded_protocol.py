"""Bounds what a client may send before a route is chosen, and ignores upgrades. Knows no routes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from models.errors import FairslateError
from service.base.errors import HeadersTimeoutError, HeadersTooLargeError
from service.base.names import new_name
from service.edge.routes import error_response

FRAMING = len(b": \r\n")  # of one header


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, which keeps headers without end and waits for them without end.

    It also takes what follows a request to upgrade for another protocol's, while a client that asks
    for h2c sends an ordinary body and takes an ordinary answer. WebSockets are left to uvicorn.
    """

    max_header_bytes = 64 << 10
    header_seconds = 10.0
    linger_seconds = 2.0
    kept_seconds = 75  # balancers use a connection again for up to a minute, and lose a race at 5

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.timeout_keep_alive = max(self.kept_seconds, self.timeout_keep_alive)
        self._in_headers = self._in_body = False
        self._advanced = False  # within the piece in hand: more than headers or trailers was read
        self._withheld = 0  # bytes since then
        self._deaf = False  # the connection was refused, or has become a WebSocket
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """In place of uvicorn's, which tells nobody where an upgrade began."""
        self._unset_keepalive_if_required()
        if self._deaf:
            return
        self._advanced = False
        try:
            self._feed(data)
        except httptools.HttpParserError:
            if not self._deaf:
                self._refuse_malformed()
            return
        if not self._deaf:
            self._watch(len(data))

    def on_message_begin(self) -> None:
        self._in_headers = self._advanced = True
        self._in_body = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        # Exact, where `_watch` lets the piece pass in which the headers begin.
        size = len(self.url) + sum(len(name) + len(value) + FRAMING for name, value in self.headers)
        if size > self.max_header_bytes:
            self._refuse_size()
            raise httptools.HttpParserError  # so that nothing more is parsed
        if self._ignores_upgrade():
            return
        self._in_headers = False
        self._stop_timer()
        self._begin()
        self._in_body = True

    def on_body(self, body: bytes) -> None:
        self._advanced = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._advanced = True
        if not self._ignores_upgrade():
            self._in_body = False
            super().on_message_complete()

    def _begin(self) -> None:
        """Gives the app a request whose headers are there."""
        super().on_headers_complete()

    @property
    def _idle(self) -> bool:
        """Whether no answer is under way."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def _drops_body(self) -> bool:
        """Whether the answer to what is being sent is out; many read it only when all is sent."""
        return self._idle

    @property
    def _answerable(self) -> bool:
        """Whether a client would take another answer for that to its latest request."""
        return self._idle and not self._in_body

    def _feed(self, data: bytes | memoryview) -> None:
        while (end := self._parse(data)) is not None:
            if self._ignores_upgrade():
                data = memoryview(data)[end:]
                self._parse_without_upgrade()
                continue
            if self._should_upgrade():
                self._deaf = True
                self.handle_websocket_upgrade()
            return

    def _parse(self, data: bytes | memoryview) -> int | None:
        """The offset at which another protocol would begin, if an upgrade is asked for."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return int(upgrade.args[0])
        return None

    def _ignores_upgrade(self) -> bool:
        asked = self.parser.should_upgrade() and not self._should_upgrade()
        return asked and self.parser.get_method() != b"CONNECT"

    def _parse_without_upgrade(self) -> None:
        """Starts the message anew: a parser that saw an upgrade reads no body."""
        version = self.parser.get_http_version().encode()
        head = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        head += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self.parser.feed_data(b"\r\n".join([*head, b"", b""]))

    def _watch(self, size: int) -> None:
        self._withheld = 0 if self._advanced else self._withheld + size
        if self._withheld > self.max_header_bytes:
            self._refuse_size()
        elif self._advanced and (self._in_headers or self._drops_body):
            self._stop_timer()
            if self._in_headers or self.timeout_keep_alive_task is None:
                self._start_timer()
        elif self._timer is None and self._idle and self.timeout_keep_alive_task is None:
            self._start_timer()

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(self.header_seconds, self._late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        """Nobody was being answered, and no request came; an answer to an earlier one may run."""
        if not self._idle:
            self._start_timer()
        elif self._in_headers:
            self._refuse(
                HeadersTimeoutError(
                    f"the headers did not arrive within {self.header_seconds:g} s of their first "
                    "byte; send them at once"
                )
            )
        else:
            self.transport.close()

    def _refuse_malformed(self) -> None:
        if self._answerable:
            self.send_400_response("Invalid HTTP request received.")
        else:
            self._close_after_answer()

    def _refuse_size(self) -> None:
        self._refuse(
            HeadersTooLargeError(
                f"the request line with the headers, or the trailers, are above the limit of "
                f"{self.max_header_bytes} bytes; send fewer or shorter ones"
            )
        )

    def _refuse(self, error: FairslateError) -> None:
        """Answers and closes. What still comes is dropped for a while: closing at once would reset
        the connection, and the client lose the answer."""
        self._deaf = True
        self._stop_timer()
        if not self._answerable:
            self._close_after_answer()
            return
        self.transport.write(on_the_wire(error, new_name(), [(b"connection", b"close")]))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._timer = self.loop.call_later(self.linger_seconds, self.transport.close)

    def _close_after_answer(self) -> None:
        """There is no place for another answer within the one under way, nor before it.

        At once where it is there, or waits for what will not be read.
        """
        self._deaf = True
        if self._idle or self.cycle.more_body:
            self.transport.close()
        else:
            self.cycle.keep_alive = False


def on_the_wire(
    error: FairslateError, request_id: str, more_headers: Iterable[tuple[bytes, bytes]]
) -> bytes:
    """The whole answer, as HTTP/1.1 has it."""
    response = error_response(error, request_id)
    lines = [b"%s: %s\r\n" % header for header in (*response.raw_headers, *more_headers)]
    return b"".join([STATUS_LINE[response.status_code], *lines, b"\r\n", bytes(response.body)])
