"""A request's body is read within its limit, and its client's departure seen behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from starlette.requests import Request
from starlette.types import Message

from service.base.errors import BodyTooLargeError
from service.edge.inbox import MAX_REQUEST_ID, received, request_identifier

LIMIT = 10


def request(*pieces: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> Request:
    """Its client sends these and goes."""
    messages: list[Message] = [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
        for number, piece in enumerate(pieces, 1)
    ]

    async def receive() -> Message:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    return Request({"type": "http", "method": "POST", "headers": list(headers)}, receive)


async def body_of(asked: Request, limit: int) -> bytes:
    return await received(asked, limit)[0].read_body()


def test_the_body_is_read_and_then_the_clients_departure() -> None:
    async def ask() -> None:
        call, inbox = received(request(b"a sl", b"ate"), LIMIT)
        gone = asyncio.create_task(inbox.client_gone())
        assert await call.read_body() == b"a slate"
        await asyncio.gather(inbox.body_read(), gone)

    asyncio.run(ask())


def test_a_call_carries_the_requests_key_and_id() -> None:
    headers = [(b"authorization", b"Bearer ada"), (b"x-request-id", b"mine")]
    call, _ = received(request(b"", headers=headers), LIMIT)
    assert (call.authorization, call.request_id) == ("Bearer ada", "mine")


@pytest.mark.parametrize("given", [b"", b"x" * (MAX_REQUEST_ID + 1), "ü".encode("latin-1"), b"\t"])
def test_an_id_that_cannot_be_shown_is_replaced(given: bytes) -> None:
    asked = request(headers=[(b"x-request-id", given)])
    assert request_identifier(asked).encode() != given
    assert len({request_identifier(asked) for _ in range(2)}) == 2


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_above_the_limit_is_refused_as_soon_as_that_is_known(declared: bool) -> None:
    length = [(b"content-length", b"%d" % (LIMIT + 1))]
    one = request(b"x" * LIMIT, b"x", b"never read", headers=length if declared else ())
    with pytest.raises(BodyTooLargeError, match=f"the limit is {LIMIT}"):
        asyncio.run(body_of(one, LIMIT))
