"""Headers without end and silence against uvicorn's own server. Knows no service."""

from __future__ import annotations

import contextlib
import json
import select
import socket

import pytest

from tests.service.edge.raw_server import (
    GET,
    LENGTH,
    PATIENCE,
    POST,
    RELEASE,
    connected,
    let_the_time_pass,
    to_the_end,
    up_to,
    upload_while_time_passes,
)

LIMIT = 64 << 10
TRAILERS = POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"


def refused(answer: bytes, status: int, code: str) -> None:
    head, body = answer.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    assert b"\r\nconnection: close" in head
    error = json.loads(body)["error"]
    assert error["code"] == code
    assert f"x-request-id: {error['request_id']}".encode() in head


def pour(connection: socket.socket, piece: bytes) -> bytes:
    """The answer to pieces of which there is no end; far more of them than a limit allows."""
    for _ in range(1000):
        if select.select([connection], [], [], 0)[0]:
            break
        connection.sendall(piece)
    return to_the_end(connection)


def drip(connection: socket.socket, until_answered: bool = False) -> bool:
    """Sends a byte now and then, for many times the hasty limits; whether an answer came."""
    for _ in range(200):
        watched = [connection] if until_answered else []
        if select.select(watched, [], [], 0.02)[0]:
            return True
        connection.sendall(b"a")
    return False


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        pytest.param(GET + b"X-A: ", b"a" * 10_000, id="one header"),
        pytest.param(GET, b"X-A: a\r\n" * 1000, id="many headers"),
        pytest.param(b"GET /", b"a" * 10_000, id="path"),
    ],
)
def test_headers_without_end_are_refused(patient_port: int, start: bytes, piece: bytes) -> None:
    with connected(patient_port, start) as connection:
        refused(pour(connection, piece), 431, "headers_too_large")


@pytest.mark.parametrize("piece", [b"X-A: a\r\n" * 1000, b"a" * 10_000])
def test_trailers_without_end_end_the_connection(patient_port: int, piece: bytes) -> None:
    with connected(patient_port, TRAILERS) as connection, contextlib.suppress(ConnectionError):
        assert pour(connection, piece) == b""


def test_trailers_are_no_part_of_the_next_headers(patient_port: int) -> None:
    with connected(patient_port, TRAILERS, b"A: b\r\n\r\n", GET, b"\r\n") as connection:
        assert up_to(connection, b"content-length: 0\r\n\r\n").count(b"200 OK") == 2


@pytest.mark.parametrize(("spare", "status"), [(0, b"200"), (-1, b"431")])
def test_the_limit_holds_to_the_byte_in_one_piece(
    patient_port: int, spare: int, status: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    named = len(b"/") + len(b"Host: x\r\nConnection: close\r\nX-A: \r\n")
    value = b"a" * (LIMIT - named - spare)
    headers = GET + b"Connection: close\r\nX-A: " + value + b"\r\n\r\n"
    with connected(patient_port, headers) as connection:
        assert to_the_end(connection).startswith(b"HTTP/1.1 " + status)
    assert caplog.messages == []  # of a second answer on the heels of the first


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(
            b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 200_000 + b"0\r\n\r\n",
            id="small chunks",
        ),
        pytest.param(b"Content-Length: 2000000\r\n\r\n" + b"x" * 2_000_000, id="one piece"),
    ],
)
def test_a_long_body_is_not_taken_for_headers(patient_port: int, request_: bytes) -> None:
    with connected(patient_port, POST, b"Connection: close\r\n", request_) as connection:
        assert to_the_end(connection).endswith(b"x" * 200_000)


def test_half_a_header_is_refused_in_time(hasty_port: int) -> None:
    with connected(hasty_port, GET) as connection:
        refused(to_the_end(connection), 408, "headers_timeout")


def test_drops_of_a_header_buy_no_time(hasty_port: int) -> None:
    with connected(hasty_port, GET + b"X-A: ") as connection:
        assert drip(connection, until_answered=True)
        refused(to_the_end(connection), 408, "headers_timeout")


def test_a_refused_connection_does_not_linger_for_ever(hasty_port: int) -> None:
    with connected(hasty_port, GET) as connection:
        to_the_end(connection)
        with pytest.raises(ConnectionError):
            drip(connection)


def test_a_silent_connection_is_closed_without_a_word(hasty_port: int) -> None:
    with connected(hasty_port) as connection:
        assert to_the_end(connection) == b""


@pytest.mark.parametrize("rest", [b"\r\n", b"GET / HTTP"])
def test_a_kept_connection_is_not_kept_for_less_than_a_request(
    hasty_port: int, rest: bytes
) -> None:
    with connected(hasty_port, GET, b"\r\n") as connection:
        up_to(connection, b"\r\n\r\n")
        connection.sendall(rest)
        to_the_end(connection)


def test_a_body_that_nobody_reads_keeps_no_connection(hasty_port: int) -> None:
    with connected(hasty_port, b"POST /unread HTTP/1.1\r\n" + LENGTH) as connection:
        up_to(connection, b"\r\n\r\n")
        connection.sendall(b"x")
        assert to_the_end(connection) == b""


def test_an_upload_that_was_answered_early_may_end_as_slowly_as_it_goes(hasty_port: int) -> None:
    early = b"POST /unread HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n"
    with connected(hasty_port, early) as connection:
        up_to(connection, b"\r\n\r\n")
        sent = upload_while_time_passes(connection, hasty_port)
        connection.sendall(b"x" * (1_000_000 - sent) + GET + b"\r\n")
        assert up_to(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_an_upload_that_was_answered_early_and_stands_still_keeps_no_connection(
    hasty_port: int,
) -> None:
    early = b"POST /unread HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n"
    with connected(hasty_port, early) as connection:
        up_to(connection, b"\r\n\r\n")
        upload_while_time_passes(connection, hasty_port)
        assert to_the_end(connection) == b""


@pytest.mark.parametrize("behind", [b"", b"GET / HTTP/1.1\r\nX-A:"])
def test_a_long_request_is_left_alone(hasty_port: int, behind: bytes) -> None:
    RELEASE.clear()
    held = b"GET /held HTTP/1.1\r\n\r\n"
    with connected(hasty_port, held, behind) as connection:
        let_the_time_pass(hasty_port)
        RELEASE.set()
        assert up_to(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 200")
        if behind:
            connection.sendall(b" a\r\n\r\n")
            assert up_to(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_an_answered_connection_is_left_to_the_keep_alive(hasty_port: int) -> None:
    with connected(hasty_port, GET + b"\r\n") as connection:
        up_to(connection, b"\r\n\r\n")
        let_the_time_pass(hasty_port)
        connection.sendall(GET + b"\r\n")
        assert up_to(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_a_request_that_was_answered_unread_is_not_answered_again(patient_port: int) -> None:
    request = b"POST /unread HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connected(patient_port, request) as connection:
        assert up_to(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 200")
        connection.sendall(b"no length\r\n")
        assert to_the_end(connection) == b""


def test_slow_headers_in_time_are_read(patient_port: int) -> None:
    request = GET + b"Connection: close\r\n\r\n"
    with connected(patient_port, *(request[i : i + 1] for i in range(len(request)))) as connection:
        assert to_the_end(connection).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("request_line", [b"CONNECT x:443 HTTP/1.1\r\n\r\n", b"nonsense\r\n\r\n"])
def test_what_is_no_request_is_refused(patient_port: int, request_line: bytes) -> None:
    with connected(patient_port, request_line) as connection:
        assert to_the_end(connection).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    "behind", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nX-A: " + b"a" * LIMIT + b"\r\n\r\n"]
)
def test_a_request_under_way_has_its_answer_before_what_is_refused_behind_it(
    patient_port: int, behind: bytes
) -> None:
    RELEASE.clear()
    with connected(patient_port, b"GET /held HTTP/1.1\r\n\r\n", behind) as connection:
        assert connection in select.select([], [connection], [], PATIENCE)[1]
        with connected(patient_port, GET + b"Connection: close\r\n\r\n") as other:
            to_the_end(other)  # the server has read what was sent before
        RELEASE.set()
        assert to_the_end(connection).startswith(b"HTTP/1.1 200")
