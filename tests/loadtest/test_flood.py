"""A flood comes from a process of its own, whole; its failures are heard. The server is a stub."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path

import pytest

from loadtest.flood import Flood, flooding
from loadtest.openloop import poisson_times
from loadtest.serving import Server
from tests.loadtest.test_fairness import CATALOGUE, Stub, server

__all__ = ["server"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        {"tenant": tenant, "prefix": member.text, "cand": member.slate}
        for tenant, members in CATALOGUE.members.items()
        for member in members
    ]
    items = [{"id": name, "text": text} for name, text in CATALOGUE.postings.items()]
    for name, lines in (("test", rows), ("items", items)):
        text = "\n".join(json.dumps(line) for line in lines)
        (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    return tmp_path


def flood(url: str, data: Path) -> Flood:
    return Flood(url, str(data), "ada", 200.0, 0.5, 7, 1000)


async def through(one: Flood) -> dict[int, int]:
    async with flooding(one) as statuses:
        pass
    return statuses


SENT = len(list(poisson_times(200.0, 0.5, 7)))


def test_all_slates_are_answered_before_it_ends(server: Server, data: Path) -> None:
    assert asyncio.run(through(flood(server.url, data))) == {200: SENT}
    assert Stub.asked["ada"] == SENT


def test_a_server_that_is_not_there_is_told_by_its_status(data: Path) -> None:
    assert asyncio.run(through(flood("http://127.0.0.1:1", data))) == {0: SENT}


def test_a_flood_without_data_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="did not start"):
        asyncio.run(through(flood("http://127.0.0.1:1", tmp_path)))


def test_no_process_outlives_whoever_fails_beside_it(server: Server, data: Path) -> None:
    async def failing() -> None:
        async with flooding(flood(server.url, data)):
            raise KeyError("beside")

    with pytest.raises(KeyError):
        asyncio.run(failing())
    assert Stub.asked["ada"] < SENT
