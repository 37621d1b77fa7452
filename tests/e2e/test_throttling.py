"""A tenant at its cap hears so before it has sent its request, and nobody else does."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
import yaml

from tests.e2e.server import RunningServer, running_server

CLIENTS = 16
BODY = {"context": "A nurse", "candidates": [{"id": "a", "text": "Job " * 50}]}
HEAD = "POST /v1/rank HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: 5\r\n\r\n"
TENANTS = {
    "classes": {"interactive": 8, "batch": 1},
    "tenants": [
        {"name": name, "class": of, "key_sha256": hashlib.sha256(name.encode()).hexdigest()}
        for name, of in {"bulk": "batch", "loud": "interactive", "quiet": "interactive"}.items()
    ],
}


@pytest.fixture(scope="module")
def narrow(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path
) -> Iterator[RunningServer]:
    """A tenant may have one job in each of its classes; keys are names."""
    state = tmp_path_factory.mktemp("narrow")
    (state / "tenants.yaml").write_text(yaml.safe_dump(TENANTS, sort_keys=False))
    file = str(state / "tenants.yaml")
    with running_server(
        state, model=str(tiny_model_dir), tenants_file=file, max_tenant_jobs="1"
    ) as running:
        yield running


async def status(client: httpx.AsyncClient, key: str, **more: str) -> int:
    headers = {"authorization": f"Bearer {key}"}
    return (await client.post("/v1/rank", json={**BODY, **more}, headers=headers)).status_code


@asynccontextmanager
async def flooded(client: httpx.AsyncClient, key: str) -> AsyncIterator[None]:
    """So many clients of a tenant ask again as soon as they are answered."""

    async def ask() -> None:
        while True:
            await status(client, key)

    clients = [asyncio.create_task(ask()) for _ in range(CLIENTS)]
    try:
        yield
    finally:
        for one in clients:
            one.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


async def first_answer_without_body(server: RunningServer, key: str) -> bytes:
    """Of many requests that stop behind their headers."""
    url = httpx.URL(server.url)
    while True:
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(HEAD.format(key).encode())
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    return await reader.readuntil(b"\r\n\r\n")
        finally:
            writer.close()


def test_a_tenant_of_one_class_is_refused_unread_and_another_ranked(narrow: RunningServer) -> None:
    async def ask() -> None:
        async with (
            asyncio.timeout(60),
            httpx.AsyncClient(base_url=narrow.url, timeout=60.0) as client,
            flooded(client, "bulk"),
        ):
            head = await first_answer_without_body(narrow, "bulk")
            assert head.startswith(b"HTTP/1.1 429 ")
            assert b"\r\nretry-after: " in head
            assert await status(client, "quiet") == 200

    asyncio.run(ask())


def test_the_other_class_of_a_refused_one_stays_open(narrow: RunningServer) -> None:
    async def ask() -> None:
        async with (
            asyncio.timeout(60),
            httpx.AsyncClient(base_url=narrow.url, timeout=60.0) as client,
            flooded(client, "loud"),
        ):
            while await status(client, "loud") != 429:
                pass
            assert [await status(client, "loud", priority="batch") for _ in range(20)] == [200] * 20

    asyncio.run(ask())
