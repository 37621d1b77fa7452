"""`/metrics` is for who holds its key, and every other path for everybody."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.responses import PlainTextResponse

from service.edge.metrics_key import MetricsKey

SERIES = PlainTextResponse("series")


def status(key: str, path: str, authorization: str | None = None) -> int:
    async def get() -> int:
        transport = httpx.ASGITransport(MetricsKey(SERIES, key))
        headers = {"authorization": authorization} if authorization else {}
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return (await client.get(path, headers=headers)).status_code

    return asyncio.run(get())


@pytest.mark.parametrize("authorization", [None, "Bearer other", "Basic key", "Bearer"])
@pytest.mark.parametrize("path", ["/metrics", "/metrics/"])
def test_without_its_key_the_metrics_are_closed(path: str, authorization: str | None) -> None:
    assert status("key", path, authorization) == 401


def test_with_its_key_the_metrics_are_open_and_so_is_all_else() -> None:
    assert status("key", "/metrics", "Bearer key") == 200
    assert status("key", "/livez") == 200
    assert status("", "/metrics") == 200
