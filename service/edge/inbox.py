"""One request as it comes in: its call, its body, and that its client has gone. Knows no routes."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from service.base.errors import BodyTooLargeError
from service.base.names import new_name
from service.walk.reception import Call

MAX_REQUEST_ID = 128


class Inbox:
    """One request's body, then the news that its client has gone."""

    def __init__(self, request: Request, max_bytes: int) -> None:
        self._request = request
        self._max_bytes = max_bytes
        self._body_read = asyncio.Event()

    async def read_body(self) -> bytes:
        """Raises BodyTooLargeError as soon as the limit is known to be passed."""
        declared = self._request.headers.get("content-length", "")
        self._check(int(declared) if declared.isdecimal() else 0)
        body = bytearray()
        async for piece in self._request.stream():
            body += piece
            self._check(len(body))
        self._body_read.set()
        return bytes(body)

    async def body_read(self) -> None:
        """Returns when the whole body is."""
        await self._body_read.wait()

    async def client_gone(self) -> None:
        """Returns when the client hangs up, which can be seen only once the body is read."""
        await self.body_read()
        while (await self._request.receive())["type"] != "http.disconnect":
            pass

    def _check(self, size: int) -> None:
        if size > self._max_bytes:
            raise BodyTooLargeError(
                f"the body is {size} bytes or more; the limit is {self._max_bytes}; "
                "send fewer or shorter candidates"
            )


def received(request: Request, max_bytes: int) -> tuple[Call, Inbox]:
    """Once for each request."""
    inbox = Inbox(request, max_bytes)
    authorization = request.headers.get("authorization")
    return Call(request_identifier(request), authorization, inbox.read_body), inbox


def request_identifier(request: Request) -> str:
    """As `usable_identifier`, of the client's `x-request-id`."""
    return usable_identifier(request.headers.get("x-request-id", ""))


def usable_identifier(given: str) -> str:
    """What a client calls its request if it is short printable ASCII, else a new name."""
    usable = 0 < len(given) <= MAX_REQUEST_ID and given.isascii() and given.isprintable()
    return given if usable else new_name()
