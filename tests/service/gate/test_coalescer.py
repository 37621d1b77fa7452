"""What concurrent callers send goes out together, and each hears its own answer or the cause."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from service.gate.coalescer import Coalescer


class Line:
    """Answers each item with its negative once it is let go; keeps what was sent."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.called, self.go = asyncio.Event(), asyncio.Event()

    async def call(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.called.set()
        await self.go.wait()
        if 13 in items:
            raise RuntimeError("thirteen")
        return [-item for item in items]


async def started(line: Line, *items: int) -> list[asyncio.Task[int]]:
    """Sends the first item, then the others while its call is under way."""
    coalescer = Coalescer(line.call, most=3)
    tasks = [asyncio.create_task(coalescer.send(items[0]))]
    await line.called.wait()
    tasks += [asyncio.create_task(coalescer.send(item)) for item in items[1:]]
    await asyncio.sleep(0)
    return tasks


def test_what_comes_during_a_call_shares_the_next_ones() -> None:
    async def run() -> None:
        line = Line()
        tasks = await started(line, 1, 2, 3, 4, 5)
        line.go.set()
        assert await asyncio.gather(*tasks) == [-1, -2, -3, -4, -5]
        assert line.batches == [[1], [2, 3, 4], [5]]

    asyncio.run(run())


def test_a_failed_batch_fails_every_caller_of_it_and_no_other() -> None:
    async def run() -> None:
        line = Line()
        tasks = await started(line, 1, 2, 13, 3, 4)
        line.go.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [answers[0], answers[4]] == [-1, -4]
        assert [str(error) for error in answers[1:4]] == ["thirteen"] * 3

    asyncio.run(run())


def test_a_caller_that_gave_up_before_its_turn_is_not_sent() -> None:
    async def run() -> None:
        line = Line()
        tasks = await started(line, 1, 2, 3)
        tasks[1].cancel()
        await asyncio.sleep(0)
        line.go.set()
        assert await tasks[2] == -3
        assert line.batches == [[1], [3]]
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]

    asyncio.run(run())


def test_who_sends_much_waits_behind_itself_alone() -> None:
    async def run() -> None:
        line = Line()
        coalescer = Coalescer(line.call, most=3)
        flood = [asyncio.create_task(coalescer.send(item, "flood")) for item in range(1, 8)]
        await line.called.wait()
        quiet = [asyncio.create_task(coalescer.send(item, "quiet")) for item in (20, 21)]
        await asyncio.sleep(0)
        line.go.set()
        await asyncio.gather(*flood, *quiet)
        assert line.batches == [[1, 2, 3], [4, 20, 5], [21, 6, 7]]

    asyncio.run(run())
