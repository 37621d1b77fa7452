"""Offers to speak another protocol, against uvicorn's own server. Knows no service."""

from __future__ import annotations

import pytest

from tests.service.edge.raw_server import (
    GET,
    LENGTH,
    POST,
    RELEASE,
    connected,
    let_the_time_pass,
    to_the_end,
    up_to,
)

H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    "body",
    [LENGTH + b"hello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"],
    ids=["content-length", "chunked"],
)
def test_the_body_beside_an_upgrade_to_http2_is_read(
    patient_port: int, body: bytes, size: int
) -> None:
    request = POST + H2C + body
    stream = request * 2 + POST + LENGTH + b"plain"
    pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
    with connected(patient_port, *pieces) as connection:
        answers = up_to(connection, b"plain")
    assert answers.count(b"hello") == 2
    assert answers.count(b"200 OK") == 3


@pytest.mark.parametrize(
    "start",
    [
        POST + H2C.replace(b"HTTP2-Settings\r\n", b"HTTP2-Settings, close\r\n"),
        POST.replace(b"1.1", b"1.0") + H2C,
    ],
    ids=["close", "HTTP/1.0"],
)
def test_an_upgrade_keeps_no_connection_that_would_close(patient_port: int, start: bytes) -> None:
    with connected(patient_port, start + LENGTH + b"hello" + GET) as connection:
        answer = to_the_end(connection)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"hello")


def test_a_get_beside_an_upgrade_leaves_the_connection_usable(patient_port: int) -> None:
    with connected(patient_port, GET + H2C + b"\r\n", POST + LENGTH + b"plain") as connection:
        assert up_to(connection, b"plain").count(b"200 OK") == 2


def test_a_websocket_is_left_to_uvicorn(hasty_port: int) -> None:
    upgrade = (
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    RELEASE.clear()
    with connected(hasty_port, GET + upgrade) as connection:
        assert up_to(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 101")
        let_the_time_pass(hasty_port)
        RELEASE.set()
        assert up_to(connection, b"\x88\x02\x03\xe8")
