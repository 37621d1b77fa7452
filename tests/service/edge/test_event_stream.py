"""Streams of events: rows, heartbeats, ends, refusals before the first event, and who leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from models.errors import FairslateError
from service.edge import event_stream
from service.edge.event_stream import HEARTBEAT, EventSource, Tell, event

ROW, ANSWER = {"id": "a", "reason": "“é”\n"}, {"usage": {}, "results": [1]}


def refuse(error: Exception) -> dict[str, Any]:
    return {"error": {"message": str(error)}}


async def never() -> None:
    await asyncio.Event().wait()


async def at_once() -> None:
    pass


async def all_of(source: EventSource) -> list[bytes]:
    return [part async for part in source.events()]


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 10))


def test_an_event_is_two_lines_whatever_it_holds() -> None:
    name, data, *rest = event("reason", ROW).decode().split("\n")
    assert (name, rest) == ("event: reason", ["", ""])
    assert json.loads(data.removeprefix("data: ")) == ROW


def test_rows_come_in_order_and_the_end_without_them() -> None:
    async def work(tell: Tell) -> dict[str, Any]:
        for number in range(3):
            tell({"index": number})
            await asyncio.sleep(0)
        return ANSWER

    async def read() -> list[bytes]:
        source = EventSource(work, refuse)
        await source.wait(at_once(), never())
        return await all_of(source)

    rows = [event("reason", {"index": number}) for number in range(3)]
    assert run(read()) == [*rows, event("done", {"usage": {}})]


def test_whoever_waits_long_is_told_that_there_is_somebody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_stream, "HEARTBEAT_SECONDS", 0.001)
    beats = asyncio.Event()

    async def work(tell: Tell) -> dict[str, Any]:
        await beats.wait()
        tell(ROW)
        return ANSWER

    async def read() -> list[bytes]:
        source, parts = EventSource(work, refuse), []
        await source.wait(at_once(), never())
        async for part in source.events():
            parts.append(part)
            if len(parts) == 3:
                beats.set()
        return parts

    parts = run(read())
    assert parts[:3] == [HEARTBEAT] * 3
    assert parts[-2:] == [event("reason", ROW), event("done", {"usage": {}})]


def test_what_is_refused_before_the_first_row_is_raised() -> None:
    async def work(tell: Tell) -> dict[str, Any]:
        raise FairslateError("too many")

    async def read() -> None:
        await EventSource(work, refuse).wait(at_once(), never())

    with pytest.raises(FairslateError, match="too many"):
        run(read())


def test_what_fails_behind_it_is_the_last_event() -> None:
    async def work(tell: Tell) -> dict[str, Any]:
        tell(ROW)
        await asyncio.sleep(0)
        raise FairslateError("lost")

    async def read() -> list[bytes]:
        source = EventSource(work, refuse)
        await source.wait(at_once(), never())
        return await all_of(source)

    assert run(read()) == [event("reason", ROW), event("error", refuse(FairslateError("lost")))]


def test_work_ends_when_the_client_has_gone() -> None:
    ended: list[bool] = []

    async def work(tell: Tell) -> dict[str, Any]:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)
        return ANSWER

    async def gone() -> None:
        await asyncio.sleep(0)

    async def read() -> None:
        source = EventSource(work, refuse)
        with pytest.raises(ClientDisconnect):
            await source.wait(at_once(), gone())
        await source.close()

    run(read())
    assert ended == [True]


def test_no_client_finds_a_line_break_in_an_event() -> None:
    assert len(event("reason", {"text": "a\u2028b\u2029c\x85d"}).decode().splitlines()) == 3


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("text/event-stream", True),
        ("application/json;q=0.5, Text/Event-Stream ; q=0.9", True),
        ("text/event-stream;q=0, application/json", False),
        ("text/event-stream;q=0.0", False),
        ("text/event-streams", False),
        ("*/*", False),
        ("", False),
    ],
)
def test_a_stream_is_for_those_who_name_it(accept: str, wanted: bool) -> None:
    assert event_stream.is_acceptable(accept) is wanted


def test_nothing_begins_before_the_body_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "HEARTBEAT_SECONDS", 0.0)
    order: list[str] = []

    async def work(tell: Tell) -> dict[str, Any]:
        await never()
        return ANSWER

    async def read() -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        order.append("read")

    async def begin() -> None:
        source = EventSource(work, refuse)
        await source.wait(read(), never())
        order.append("began")
        await source.close()

    run(begin())
    assert order == ["read", "began"]
