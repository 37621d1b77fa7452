"""Many who look together look once, and a look is shared only while it is fresh."""

from __future__ import annotations

import asyncio

from service.dispatch.recent import Recent


def test_a_crowd_costs_one_look_until_it_is_too_old_or_forgotten() -> None:
    looks = 0

    async def look() -> int:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0)
        return looks

    async def ask() -> None:
        recent = Recent(look, 60.0)
        assert await asyncio.gather(*[recent.get() for _ in range(100)]) == [1] * 100
        assert await recent.get() == 1
        recent.forget()
        assert await recent.get() == 2
        stale = Recent(look, -1.0)
        assert await stale.get() == 3
        assert await stale.get() == 4

    asyncio.run(ask())


def test_one_who_leaves_takes_the_look_from_nobody() -> None:
    go_on = asyncio.Event()

    async def look() -> bool:
        return await go_on.wait()

    async def ask() -> None:
        recent = Recent(look, 1.0)
        first, second = (asyncio.create_task(recent.get()) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        go_on.set()
        assert await second

    asyncio.run(asyncio.wait_for(ask(), 5.0))
