"""A tenant's work is done one piece at a time, and a turn lasts as long as its thread works."""

from __future__ import annotations

import asyncio
import threading

import pytest

from service.gate.errors import TenantThrottledError
from service.tenants.turns import LEAST_RETRY_MS, Turns


def test_a_cancelled_caller_leaves_the_turn_taken_until_its_thread_ends() -> None:
    begun, go_on = threading.Event(), threading.Event()
    order: list[str] = []

    def long() -> None:
        begun.set()
        go_on.wait()
        order.append("long")

    async def both() -> None:
        turns = Turns(2, 8)
        first = asyncio.create_task(turns.run("ada", long))
        await asyncio.to_thread(begun.wait)
        first.cancel()
        second = asyncio.create_task(turns.run("ada", order.append, "short"))
        await turns.run("bob", order.append, "bob")
        go_on.set()
        await second
        assert first.cancelled()

    asyncio.run(asyncio.wait_for(both(), 10.0))
    assert order == ["bob", "long", "short"]


def test_what_the_work_raises_reaches_the_caller_and_ends_the_turn() -> None:
    async def twice() -> None:
        turns = Turns(1, 8)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await turns.run("ada", divmod, 1, 0)

    asyncio.run(asyncio.wait_for(twice(), 10.0))


def test_a_caller_cancelled_before_its_work_began_gives_the_turn_back() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        go_on.wait()

    async def cancel_one() -> None:
        turns = Turns(1, 8)
        holder = asyncio.create_task(turns.run("ada", hold))
        await asyncio.to_thread(begun.wait)
        waiting = asyncio.create_task(turns.run("bob", int))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        go_on.set()
        await holder
        assert await turns.run("bob", int) == 0

    asyncio.run(asyncio.wait_for(cancel_one(), 10.0))


def test_a_tenant_above_its_waiting_requests_is_refused_and_no_other() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def long() -> None:
        begun.set()
        go_on.wait()

    async def crowd() -> None:
        turns = Turns(2, 2)
        held = asyncio.create_task(turns.run("ada", long))
        await asyncio.to_thread(begun.wait)
        waiting = [asyncio.create_task(turns.run("ada", int)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(TenantThrottledError, match="2 requests") as refusal:
            await turns.run("ada", int)
        assert refusal.value.retry_after_ms == LEAST_RETRY_MS
        assert await turns.run("bob", int) == 0
        waiting.pop().cancel()
        await asyncio.sleep(0)
        turns.check("ada")  # who gave up waits no more
        go_on.set()
        await asyncio.gather(held, *waiting)

    asyncio.run(asyncio.wait_for(crowd(), 10.0))


def test_who_was_refused_is_taken_again_when_half_of_those_before_are_through() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def long() -> None:
        begun.set()
        go_on.wait()

    async def crowd() -> None:
        turns = Turns(2, 4)
        held = asyncio.create_task(turns.run("ada", long))
        await asyncio.to_thread(begun.wait)
        waiting: list[asyncio.Task[int]] = []
        try:
            for _ in range(4):
                turns.check("ada")
                waiting.append(asyncio.create_task(turns.run("ada", int)))
                await asyncio.sleep(0)
            for _ in range(2):  # at 4, and at 3
                with pytest.raises(TenantThrottledError, match="4 are the most"):
                    turns.check("ada")
                waiting.pop().cancel()
                await asyncio.sleep(0)
            turns.check("ada")
            waiting.append(asyncio.create_task(turns.run("ada", int)))
            await asyncio.sleep(0)
            turns.check("ada")  # 3 again, on the way up
        finally:
            go_on.set()
        await asyncio.gather(held, *waiting)

    asyncio.run(asyncio.wait_for(crowd(), 10.0))
