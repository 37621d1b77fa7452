"""A small app on uvicorn's own server, and sockets that say what they like. Knows no service."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import anyio.to_thread
import uvicorn
from starlette.types import Receive, Scope, Send

from service.edge.bounded_protocol import BoundedProtocol

PATIENCE = 5.0  # of a test's socket; far above the protocol's
GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
LENGTH = b"Content-Length: 5\r\n\r\n"
RELEASE = threading.Event()


class Hasty(BoundedProtocol):
    header_seconds = 0.2
    linger_seconds = 0.2


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Repeats the body; /unread does not read it, /held and WebSockets end when released."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await anyio.to_thread.run_sync(RELEASE.wait)
        await send({"type": "websocket.close"})
        return
    body = b""
    while scope["path"] != "/unread":
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    if scope["path"] == "/held":
        await anyio.to_thread.run_sync(RELEASE.wait)
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextlib.contextmanager
def serving(protocol: Callable[..., BoundedProtocol]) -> Iterator[int]:
    """The port of a server of this protocol, whose keep-alive alone ends no connection here."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, http=cast("Any", protocol), lifespan="off", log_config=None, timeout_keep_alive=3600
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        RELEASE.set()
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


@contextlib.contextmanager
def connected(port: int, *pieces: bytes) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
        yield connection


def to_the_end(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    received = b""
    while piece := connection.recv(1 << 16):
        received += piece
    return received


def up_to(connection: socket.socket, end: bytes, at_once: int = 1 << 16) -> bytes:
    """What comes first and ends like this; at_once: 1 leaves what comes behind it."""
    received = b""
    while not received.endswith(end):
        piece = connection.recv(at_once)
        assert piece, received
        received += piece
    return received


def let_the_time_pass(port: int) -> None:
    """Returns when the time for headers that began before has run out."""
    for _ in range(2):
        with connected(port) as silent:
            assert to_the_end(silent) == b""


def upload_while_time_passes(connection: socket.socket, port: int) -> int:
    """Bytes sent, one now and then, until the time for headers has run out three times."""
    sent = 0
    for _ in range(3):
        with connected(port) as silent:
            while not select.select([silent], [], [], 0.01)[0]:
                connection.sendall(b"x")
                sent += 1
    return sent
