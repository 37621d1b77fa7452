"""Who was refused a moment ago is answered before the app sees the request; all else passes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial

import pytest

from service.edge.bounded_protocol import BoundedProtocol
from service.edge.refusing_protocol import GATED, MOST_HELD_BYTES, Door, RefusingProtocol
from tests.service.edge.doorkeeper import (
    LOUD,
    ONE_CLASS,
    QUIET,
    REFUSED,
    SERVED,
    STARTED,
    Counting,
    Doorkeeper,
    Fleeting,
    HastyRefusing,
    answer,
    assert_answered,
    head,
    send_far_more_than_sockets_hold,
    slate,
)
from tests.service.edge.raw_server import (
    RELEASE,
    connected,
    let_the_time_pass,
    serving,
    to_the_end,
    up_to,
    upload_while_time_passes,
)

LONG = b"x" * (MOST_HELD_BYTES + 1)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(partial(Counting, Doorkeeper)) as port:
        yield port


@pytest.fixture(scope="module")
def hasty_port() -> Iterator[int]:
    with serving(partial(HastyRefusing, Doorkeeper)) as port:
        yield port


@pytest.mark.parametrize("path", [*sorted(GATED), b"/v1/rank?a=b"])
def test_a_refused_tenant_is_answered_before_its_body_and_the_connection_stays(
    port: int, path: bytes
) -> None:
    with connected(port, head(LOUD, 5, path, b"X-Request-Id: mine\r\n")) as connection:
        for _ in range(2):
            top, body = answer(connection)
            assert top.startswith(REFUSED)
            assert b"\r\nretry-after: 1\r\n" in top
            assert b"\r\nx-request-id: mine\r\n" in top
            assert top.count(b"\r\ndate: ") == 1
            error = json.loads(body)["error"]
            assert (error["code"], error["request_id"]) == ("tenant_throttled", "mine")
            assert error["retry_after_ms"] == 700
            connection.sendall(b"slate" + head(LOUD, 5, path, b"X-Request-Id: mine\r\n"))
        assert answer(connection)[0].startswith(REFUSED)
        connection.sendall(b"slate" + slate(QUIET, b"other"))
        assert answer(connection)[1] == b"other"


@pytest.mark.parametrize("cut", [0, 3])
@pytest.mark.parametrize(
    ("body", "status"), [(b"interactive", REFUSED), (b"batch", SERVED), (LONG, SERVED)]
)
def test_where_the_class_decides_the_body_is_held_until_it_is_there_or_long(
    port: int, body: bytes, status: bytes, cut: int
) -> None:
    with connected(port, head(ONE_CLASS, len(body)), body[:cut]) as connection:
        connection.sendall(body[cut:] + slate(QUIET, b"next"))
        top, said = answer(connection)
        assert top.startswith(status)
        assert status == REFUSED or said == body
        assert answer(connection)[1] == b"next"


def test_a_late_body_is_the_apps_to_wait_for(hasty_port: int) -> None:
    with connected(hasty_port, head(ONE_CLASS, 5), b"ba") as connection:
        let_the_time_pass(hasty_port)
        connection.sendall(b"tch")
        assert answer(connection)[1] == b"batch"
        let_the_time_pass(hasty_port)
        connection.sendall(slate(QUIET, b"next"))
        assert answer(connection)[1] == b"next"


def test_a_body_that_drips_is_late_as_well(hasty_port: int) -> None:
    with connected(hasty_port, head(ONE_CLASS, 1000)) as connection:
        sent = upload_while_time_passes(connection, hasty_port)
        connection.sendall(b"x" * (1000 - sent))
        assert answer(connection)[0].startswith(SERVED)  # by the app, which was given it before


def test_a_refused_upload_may_end_slowly_and_the_connection_stays(hasty_port: int) -> None:
    with connected(hasty_port, head(LOUD, 1_000_000)) as connection:
        assert answer(connection)[0].startswith(REFUSED)
        sent = upload_while_time_passes(connection, hasty_port)
        connection.sendall(b"x" * (1_000_000 - sent))
        let_the_time_pass(hasty_port)
        connection.sendall(slate(LOUD, b"x"))
        assert answer(connection)[0].startswith(REFUSED)


@pytest.mark.parametrize(
    ("key", "body"), [(LOUD, b"slate"), (ONE_CLASS, b"slate"), (ONE_CLASS, b"batch")]
)
def test_a_connection_is_kept_as_any_other(hasty_port: int, key: bytes, body: bytes) -> None:
    with connected(hasty_port, head(key, 5)) as connection:
        assert_answered(hasty_port)
        connection.sendall(body)
        answer(connection)
        let_the_time_pass(hasty_port)
        connection.sendall(slate(QUIET, b"next"))
        assert answer(connection)[1] == b"next"


def test_an_answer_behind_a_refusal_may_take_longer_than_an_idle_connection_is_kept() -> None:
    RELEASE.clear()
    with serving(partial(Fleeting, Doorkeeper)) as port:
        both = slate(LOUD, b"slate") + slate(QUIET, b"first", b"/held")
        with connected(port, both) as connection, connected(port, slate(LOUD, b"")) as idle:
            assert answer(connection)[0].startswith(REFUSED)
            assert to_the_end(idle).startswith(REFUSED)
            RELEASE.set()
            assert answer(connection)[1] == b"first"


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(b"no length\r\n", id="a malformed chunk"),
        pytest.param(b"0\r\nA: " + b"x" * BoundedProtocol.max_header_bytes, id="long trailers"),
    ],
)
def test_a_request_has_one_answer_whatever_its_body_turns_out_to_be(port: int, rest: bytes) -> None:
    chunked = head(LOUD, 0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    with connected(port, chunked) as connection:
        assert answer(connection)[0].startswith(REFUSED)
        connection.sendall(rest)
        with suppress(ConnectionError):
            assert to_the_end(connection) == b""


def test_a_malformed_body_that_is_held_is_answered(port: int) -> None:
    chunked = head(ONE_CLASS, 0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    with connected(port, chunked, b"no length\r\n") as connection:
        assert to_the_end(connection).startswith(b"HTTP/1.1 400 ")


def test_what_is_held_is_not_begun_when_it_was_refused_and_the_server_stops(
    caplog: pytest.LogCaptureFixture,
) -> None:
    chunked = head(ONE_CLASS, 0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    trailers = b"0\r\nA: " + b"x" * BoundedProtocol.max_header_bytes
    with ExitStack() as connections, serving(partial(RefusingProtocol, Doorkeeper)) as port:
        connection = connections.enter_context(connected(port, chunked))
        assert_answered(port)
        connection.sendall(trailers)
        connection.sendall(trailers)
        assert to_the_end(connection).startswith(b"HTTP/1.1 431 ")
    assert "Exception" not in caplog.text


def test_what_comes_behind_a_last_request_is_not_begun(port: int) -> None:
    last = head(LOUD, 5, more=b"Connection: keep-alive\r\n", version=b"1.0") + b"slate"
    begun = len(STARTED)
    with connected(port, last + slate(QUIET, b"other")) as connection:
        assert to_the_end(connection).count(b"HTTP/1.1 ") == 1
    assert STARTED[begun:] == []


def test_a_websocket_is_left_to_the_app(port: int, caplog: pytest.LogCaptureFixture) -> None:
    upgrade = b"Upgrade: websocket\r\nConnection: upgrade\r\n"
    with connected(port, slate(LOUD, b"", more=upgrade)) as connection:
        assert up_to(connection, b"\r\n\r\n", 1).startswith(b"HTTP/1.1 400 ")
    assert "Fatal error" not in caplog.text


def test_who_reads_no_answer_is_soon_not_read_either(port: int) -> None:
    with connected(port) as connection:
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):
            send_far_more_than_sockets_hold(connection)


@pytest.mark.parametrize(
    "request_of",
    [
        pytest.param(partial(slate, QUIET), id="another tenant"),
        pytest.param(partial(slate, LOUD, path=b"/elsewhere"), id="another path"),
        pytest.param(lambda body: slate(LOUD, body).replace(b"POST", b"PUT"), id="another method"),
    ],
)
def test_others_and_other_requests_pass(port: int, request_of: Callable[[bytes], bytes]) -> None:
    with connected(port, request_of(b"slate")) as connection:
        assert answer(connection)[1] == b"slate"


def test_a_client_that_waits_for_leave_to_send_is_left_to_the_app(port: int) -> None:
    with connected(port, head(LOUD, 5, more=b"Expect: 100-continue\r\n")) as connection:
        assert up_to(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"slate")
        assert answer(connection)[1] == b"slate"


def test_answers_keep_their_order_behind_one_under_way(port: int) -> None:
    RELEASE.clear()
    with connected(port, slate(QUIET, b"first", b"/held")) as connection:
        connection.sendall(slate(LOUD, b"second"))
        RELEASE.set()
        assert [answer(connection)[1] for _ in range(2)] == [b"first", b"second"]


@pytest.mark.parametrize("key", [LOUD, ONE_CLASS])
@pytest.mark.parametrize(("more", "version"), [(b"Connection: close\r\n", b"1.1"), (b"", b"1.0")])
def test_a_connection_that_is_not_to_stay_is_closed_behind_the_refusal(
    port: int, key: bytes, more: bytes, version: bytes
) -> None:
    with connected(port, head(key, 5, more=more, version=version), b"slate") as connection:
        said = to_the_end(connection)
    assert said.startswith(REFUSED)
    assert b"\r\nconnection: close\r\n" in said


def test_where_there_is_no_door_nobody_is_refused() -> None:
    def none() -> Door | None:
        return None

    with (
        serving(partial(RefusingProtocol, none)) as port,
        connected(port, slate(LOUD, b"slate")) as connection,
    ):
        assert answer(connection)[1] == b"slate"
