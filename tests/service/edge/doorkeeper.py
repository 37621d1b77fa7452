"""A door that refuses by the key alone, and requests in front of it. Knows no service."""

from __future__ import annotations

import re
import socket
from typing import Any

from service.edge.refusing_protocol import RefusingProtocol
from service.gate.errors import TenantThrottledError
from tests.service.edge.raw_server import Hasty, connected, up_to

LOUD, ONE_CLASS, QUIET = b"loud", b"loud in one class", b"quiet"
REFUSED, SERVED = b"HTTP/1.1 429 Too Many Requests\r\n", b"HTTP/1.1 200 OK\r\n"
STARTED: list[bytes] = []


class Doorkeeper:
    """Refuses one tenant, and of another what does not say `batch`."""

    def refuse_unread(self, authorization: str | None) -> bool:
        if authorization == LOUD.decode():
            raise TenantThrottledError("wait for answers", retry_after_ms=700)
        return authorization == ONE_CLASS.decode()

    def refuse_unparsed(self, authorization: str | None, body: bytes) -> None:
        assert authorization == ONE_CLASS.decode()
        if b"batch" not in body:
            raise TenantThrottledError("wait for answers", retry_after_ms=700)


class HastyRefusing(RefusingProtocol, Hasty):
    """Loses patience soon."""


class Fleeting(RefusingProtocol):
    """Keeps no idle connection for long."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.timeout_keep_alive = 0


class Counting(RefusingProtocol):
    """Says which requests the app was given."""

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        STARTED.append(self.url)
        super()._start_asgi_task(cycle, app)


def head(
    key: bytes, length: int, path: bytes = b"/v1/rank", more: bytes = b"", version: bytes = b"1.1"
) -> bytes:
    lines = b"POST %s HTTP/%s\r\nHost: x\r\nAuthorization: %s\r\nContent-Length: %d\r\n%s\r\n"
    return lines % (path, version, key, length, more)


def slate(key: bytes, body: bytes, path: bytes = b"/v1/rank", more: bytes = b"") -> bytes:
    return head(key, len(body), path, more) + body


def answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """One, with its length known: head and body."""
    top = up_to(connection, b"\r\n\r\n", 1)
    length = re.search(rb"content-length: (\d+)", top)
    assert length
    body = b""
    while len(body) < int(length[1]):
        body += connection.recv(int(length[1]) - len(body))
    return top, body


def assert_answered(port: int) -> None:
    """Whatever came before this has been read."""
    with connected(port, slate(QUIET, b"other")) as connection:
        assert answer(connection)[1] == b"other"


def send_far_more_than_sockets_hold(connection: socket.socket) -> None:
    many = slate(LOUD, b"slate") * 1000
    for _ in range(300):
        connection.sendall(many)
