"""A refused call leaves nothing for the garbage collector, whose passes stop all requests."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.requests import Request
from starlette.types import Message

from service.gate.errors import DeadlineExceededError, TenantThrottledError
from service.openapi import openapi
from service.reception import Call, Clock, deadline
from service.routes import _refused, _worked

Work = Callable[[Call], Coroutine[Any, Any, dict[str, Any]]]


async def status_of(work: Work) -> int:
    """Of the answer to an empty POST whose client stays."""
    never = asyncio.Event()
    sent = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if not sent:
            await never.wait()
        return sent.pop()

    ranker = SimpleNamespace(settings=SimpleNamespace(max_body_bytes=1_000))
    app = SimpleNamespace(state=SimpleNamespace(ranker=ranker))
    scope = {"type": "http", "method": "POST", "headers": [], "app": app, "state": {}}
    return (await _worked(Request(scope, receive), work)).status_code


@pytest.mark.parametrize("late", [False, True])
def test_an_error_is_gone_with_its_answer(late: bool) -> None:
    errors: list[weakref.ref[BaseException]] = []

    async def refuse(call: Call) -> dict[str, Any]:
        await call.read_body()
        try:
            if late:
                async with deadline(Clock(call.arrived, 1)):
                    await asyncio.Event().wait()
            raise TenantThrottledError("too many; send fewer")
        except (TenantThrottledError, DeadlineExceededError) as error:
            errors.append(weakref.ref(error))
            raise

    gc.collect()
    gc.disable()
    try:
        status = asyncio.run(status_of(cast("Work", refuse)))
        assert [error() for error in errors] == [None]
    finally:
        gc.enable()
    assert status == (504 if late else 429)


def test_an_error_of_a_stream_is_logged_as_any_other(caplog: pytest.LogCaptureFixture) -> None:
    assert _refused("mine", ValueError("odd"))["error"]["code"] == "internal_error"
    assert "request mine failed" in caplog.text
    assert "odd" in caplog.text


def test_a_route_that_is_not_served_is_not_documented() -> None:
    assert "/v1/reason" in openapi()["paths"]
    assert "/v1/reason" not in openapi(reasons=False)["paths"]
