"""The issue's load: 3,000 small slates at 16 concurrent from 4 tenants."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.e2e.server import RunningServer

REQUESTS = 3000
CONCURRENT = 16


def body(number: int) -> dict[str, Any]:
    candidates = [{"id": f"{number}-{slot}", "text": f"Job {number * 7 + slot}"} for slot in (0, 1)]
    return {"context": f"Member {number % 40} of the guild", "candidates": candidates}


@pytest.mark.long
def test_every_request_is_answered_completely_and_in_order(
    server: RunningServer, tenant_keys: dict[str, str]
) -> None:
    answers = asyncio.run(send_all(server.url, list(tenant_keys.values())))
    assert [status for status, _ in answers] == [200] * REQUESTS
    for number, (_, answer) in enumerate(answers):
        rows = answer["results"]
        assert {(row["id"], row["index"]) for row in rows} == {
            (f"{number}-0", 0),
            (f"{number}-1", 1),
        }
        assert (-rows[0]["score"], rows[0]["index"]) < (-rows[1]["score"], rows[1]["index"])


async def send_all(url: str, keys: list[str]) -> list[tuple[int, dict[str, Any]]]:
    slots = asyncio.Semaphore(CONCURRENT)
    async with httpx.AsyncClient(base_url=url, timeout=60.0) as client:

        async def send(number: int) -> tuple[int, dict[str, Any]]:
            headers = {"authorization": f"Bearer {keys[number % len(keys)]}"}
            async with slots:
                response = await client.post("/v1/rank", json=body(number), headers=headers)
            return response.status_code, response.json()

        return await asyncio.gather(*(send(number) for number in range(REQUESTS)))
