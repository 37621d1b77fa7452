"""A job for tests of the dispatcher, and what they wait for. Knows no dispatcher."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from service.gate.gate import AsyncGate
from service.gate.job import Job, Level


def job(name: str, deadline_ms: int) -> Job:
    return Job(name, (Level("ada"),), 0, (), 16, 0, 1, deadline_ms, "here", b"")


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10.0):
        while not await condition():  # noqa: ASYNC110 - nobody tells when Redis has it
            await asyncio.sleep(0.01)


async def queued(gate: AsyncGate, jobs: int) -> bool:
    return (await gate.stats()).queued_jobs == jobs
