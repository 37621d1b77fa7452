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
from starlette.responses import Response
from starlette.types import Message

from models.errors import FairslateError
from service.base.errors import MethodNotAllowedError, RouteNotFoundError
from service.edge.openapi import openapi
from service.edge.refusing_protocol import GATED
from service.edge.routes import ROUTES, _refusal, _refused, _streamed, _worked
from service.gate.errors import DeadlineExceededError, TenantThrottledError
from service.walk.reception import Call, Clock, deadline

Work = Callable[[Call], Coroutine[Any, Any, dict[str, Any]]]
Answer = Callable[[Request, Work], Coroutine[Any, Any, Response]]


async def status_of(work: Work, answer: Answer) -> int:
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
    return (await answer(Request(scope, receive), work)).status_code


async def streamed(request: Request, work: Work) -> Response:
    return await _streamed(request, lambda call, _: work(call))


@pytest.mark.parametrize("answer", [_worked, streamed])
@pytest.mark.parametrize("late", [False, True])
def test_an_error_is_gone_with_its_answer(late: bool, answer: Answer) -> None:
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
        status = asyncio.run(status_of(cast("Work", refuse), answer))
        assert [error() for error in errors] == [None]
    finally:
        gc.enable()
    assert status == (504 if late else 429)


def test_an_error_of_a_stream_is_logged_as_any_other(caplog: pytest.LogCaptureFixture) -> None:
    assert _refused("mine", ValueError("odd"))["error"]["code"] == "internal_error"
    assert "request mine failed" in caplog.text
    assert "odd" in caplog.text


def test_a_flood_is_refused_early_on_every_route_that_works_for_tenants() -> None:
    assert {route.path.encode() for route in ROUTES if "POST" in (route.methods or ())} == GATED


def test_every_route_is_documented() -> None:
    paths = {route.path.replace("{asked:path}", "{request_id}") for route in ROUTES}
    assert paths - {"/docs.json"} <= set(openapi()["paths"])


def test_a_route_that_is_not_served_is_not_documented() -> None:
    assert "/v1/reason" in openapi()["paths"]
    assert "/v1/reason" not in openapi(reasons=False)["paths"]


def test_a_route_that_is_not_served_is_not_offered_either() -> None:
    def refused(path: str, reasoner: object) -> FairslateError:
        app = SimpleNamespace(state=SimpleNamespace(reasoner=reasoner))
        scope = {"type": "http", "method": "GET", "path": path, "headers": [], "app": app}
        return _refusal(Request(scope | {"query_string": b"", "server": ("here", 80)}))

    assert isinstance(refused("/v1/reason", object()), MethodNotAllowedError)
    assert isinstance(refused("/v1/reason", None), RouteNotFoundError)
    assert "/v1/reason" in str(refused("/v1/other", object()))
    assert "/v1/reason" not in str(refused("/v1/other", None))
