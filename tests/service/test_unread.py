"""Who was refused a moment ago is refused before the app sees the request; all else passes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.datastructures import State
from starlette.responses import PlainTextResponse

from service.gate.errors import TenantThrottledError
from service.unread import RefusedUnread

REFUSED = "Bearer loud"


def refuse_unread(authorization: str | None) -> None:
    if authorization == REFUSED:
        raise TenantThrottledError("wait for answers", retry_after_ms=700)


async def body(read: bool = True) -> AsyncIterator[bytes]:
    assert not read, "the body is read"
    yield b""


def answer(path: str, key: str, method: str = "POST") -> httpx.Response:
    state = State({"reception": SimpleNamespace(refuse_unread=refuse_unread)})
    app: Any = RefusedUnread(PlainTextResponse("served"), state)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        headers = {"authorization": key, "x-request-id": "mine"}
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, headers=headers, content=body())

    return asyncio.run(ask())


@pytest.mark.parametrize("path", ["/v1/rank", "/v1/contexts"])
def test_a_refused_tenant_is_answered_with_its_body_unread(path: str) -> None:
    response = answer(path, REFUSED)
    assert response.status_code == 429
    assert (response.headers["retry-after"], response.headers["x-request-id"]) == ("1", "mine")
    error = response.json()["error"]
    assert (error["code"], error["request_id"]) == ("tenant_throttled", "mine")
    assert error["retry_after_ms"] == 700


def test_others_and_other_paths_pass() -> None:
    assert answer("/v1/rank", "Bearer quiet").text == "served"
    assert answer("/v1/models", REFUSED, "GET").text == "served"
    assert answer("/admin/policy", REFUSED).text == "served"
    assert answer("/v1/rank", REFUSED, "GET").text == "served"
