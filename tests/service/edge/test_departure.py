"""A process that is told to stop answers what it has begun, and refuses the rest until it ends."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import httpx
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from service.edge.departure import Departure, RefusedOnDeparture


class Held:
    """An app whose answer to `/held` waits for `release`."""

    def __init__(self) -> None:
        self.begun, self.release = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/held":
            self.begun.set()
            await self.release.wait()
        await PlainTextResponse("served")(scope, receive, send)


def client_of(app: Held, departure: Departure) -> httpx.AsyncClient:
    outside: Any = RefusedOnDeparture(app, departure)
    return httpx.AsyncClient(transport=httpx.ASGITransport(outside), base_url="http://test")


def test_it_goes_when_the_last_answer_is_out_and_refuses_the_new_meanwhile() -> None:
    async def depart() -> None:
        departure, app = Departure(), Held()
        gone: list[str] = []
        async with client_of(app, departure) as client:
            assert (await client.get("/other")).text == "served"
            held = asyncio.create_task(client.get("/held"))
            await app.begun.wait()
            departure.leave(lambda: gone.append("first"))
            departure.leave(lambda: gone.append("again"))
            refused = await client.post("/v1/rank", headers={"x-request-id": "mine"})
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "server_stopping"
            assert refused.json()["error"]["request_id"] == "mine"
            assert (refused.headers["retry-after"], refused.headers["connection"]) == ("1", "close")
            assert not gone
            app.release.set()
            assert (await held).text == "served"
        assert gone == ["first"]

    asyncio.run(depart())


def test_it_goes_at_once_when_idle() -> None:
    gone: list[str] = []
    Departure().leave(lambda: gone.append("gone"))
    assert gone == ["gone"]


def test_the_servers_own_handler_of_sigterm_hears_of_it_afterwards() -> None:
    async def depart() -> None:
        heard, departure = asyncio.Event(), Departure()
        before = signal.signal(signal.SIGTERM, lambda *_: heard.set())
        try:
            with departure.heeding_sigterm(60.0, heard.clear):
                with departure.request():
                    os.kill(os.getpid(), signal.SIGTERM)
                    while not departure.leaving:  # noqa: ASYNC110 - a handler tells nobody
                        await asyncio.sleep(0)
                    assert not heard.is_set()
                assert heard.is_set()
        finally:
            signal.signal(signal.SIGTERM, before)

    asyncio.run(asyncio.wait_for(depart(), 20.0))


def test_what_ends_by_itself_too_late_is_hung_up_on() -> None:
    async def depart() -> None:
        gone, held, departure = asyncio.Event(), asyncio.Event(), Departure()
        before = signal.signal(signal.SIGTERM, lambda *_: gone.set())
        try:
            with departure.heeding_sigterm(0.0, held.set):
                with departure.request():
                    os.kill(os.getpid(), signal.SIGTERM)
                    await held.wait()
                assert gone.is_set()
        finally:
            signal.signal(signal.SIGTERM, before)

    asyncio.run(asyncio.wait_for(depart(), 20.0))
