"""A client that reads nothing holds no server open that hangs up. Knows no service."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from service.edge.parting_protocol import PartingProtocol, hang_up
from tests.service.edge.raw_server import GET

MANY = 32 << 20  # bytes; more than the kernel takes for whoever does not read


class Answer:
    """So many pieces of a size; `sent` when the first one is."""

    def __init__(self, pieces: int, size: int) -> None:
        self._pieces, self._piece = pieces, b"x" * size
        self.sent, self.ended = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(self._pieces):
            more = number + 1 < self._pieces
            await send({"type": "http.response.body", "body": self._piece, "more_body": more})
            self.sent.set()
        self.ended.set()


@pytest.mark.parametrize(("pieces", "ended"), [(1, True), (32, False)])
def test_a_stop_leaves_behind_what_nobody_reads(pieces: int, ended: bool) -> None:
    async def stop() -> None:
        answer = Answer(pieces, MANY // pieces)
        listener = socket.create_server(("127.0.0.1", 0))
        protocol: Any = partial(PartingProtocol, lambda: None)
        config = uvicorn.Config(answer, http=protocol, lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve([listener]))
        _, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(GET + b"\r\n")
        await answer.sent.wait()
        assert answer.ended.is_set() is ended
        server.should_exit = True
        hang_up()
        await running
        assert answer.ended.is_set()
        writer.close()

    asyncio.run(asyncio.wait_for(stop(), 20.0))
