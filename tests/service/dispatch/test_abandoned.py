"""Jobs that nobody waits for leave the queue in few calls, however often Redis fails meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from service.dispatch import abandoned
from service.dispatch.abandoned import CANCELLED_AT_ONCE, Abandoned
from service.gate.errors import GateUnavailableError
from service.gate.gate import AsyncGate
from service.gate.job import Job, Level
from service.gate.settings import GateSettings


class FailingGate(AsyncGate):
    """A real one whose first cancellations find no Redis; notes what it was asked to cancel."""

    def __init__(self, url: str, pool: str, failures: float = 0) -> None:
        super().__init__(url, pool, GateSettings())
        self.failures = failures
        self.calls: list[Sequence[str]] = []
        self.answered = asyncio.Event()

    async def cancel_all(self, job_ids: Sequence[str]) -> list[bool]:
        self.calls.append(job_ids)
        if len(self.calls) <= self.failures:
            raise GateUnavailableError("away", retry_after_ms=1)
        cancelled = await super().cancel_all(job_ids)
        self.answered.set()
        return cancelled

    async def queue(self, *names: str) -> None:
        for name in names:
            await self.submit(Job(name, (Level("ada"),), 0, (), 16, 0, 1, 60_000, "here", b""))

    async def waiting(self) -> int:
        return (await self.stats()).queued_jobs


Ask = Callable[[FailingGate, Abandoned], Awaitable[None]]


@pytest.fixture
def ask(
    service_redis_url: str, pool: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Ask, float], None]:
    """Runs something with a gate that fails so many times; retries follow at once."""
    monkeypatch.setattr(abandoned, "RETRY_SECONDS", 0.0)

    async def run(work: Ask, failures: float) -> None:
        gate = FailingGate(service_redis_url, pool, failures)
        async with asyncio.timeout(30.0):
            await work(gate, Abandoned(gate))
        await gate.close()

    return lambda work, failures: asyncio.run(run(work, failures))


Run = Callable[[Ask, float], None]


def test_a_crowd_is_cancelled_in_few_calls_and_nobody_else(ask: Run) -> None:
    async def leave(gate: FailingGate, left: Abandoned) -> None:
        names = [f"job-{number}" for number in range(2 * CANCELLED_AT_ONCE + 1)]
        await gate.queue("stays", *names)
        for name in names:
            left.add({name: 60.0})
        await left.finish()
        assert await gate.waiting() == 1
        assert [name for call in gate.calls for name in call] == names
        assert [len(call) for call in gate.calls] == [CANCELLED_AT_ONCE, CANCELLED_AT_ONCE, 1]

    ask(leave, 0)


def test_it_is_tried_again_until_redis_answers(ask: Run) -> None:
    async def leave(gate: FailingGate, left: Abandoned) -> None:
        await gate.queue("a", "b")
        left.add({"a": 60.0, "b": 60.0})
        await gate.answered.wait()
        assert await gate.waiting() == 0
        assert gate.calls == [["a", "b"]] * 4

    ask(leave, 3)


def test_a_job_is_given_up_after_its_seconds_for_the_gate_ends_it(ask: Run) -> None:
    async def leave(gate: FailingGate, left: Abandoned) -> None:
        left.add({"over": 0.0, "due": 60.0})
        await gate.answered.wait()
        assert gate.calls == [["over", "due"], ["due"]]

    ask(leave, 1)


def test_who_finishes_waits_for_an_absent_redis_once(ask: Run) -> None:
    async def leave(gate: FailingGate, left: Abandoned) -> None:
        left.add({"a": 60.0})
        await left.finish()
        assert len(gate.calls) == 1

    ask(leave, float("inf"))


def test_nothing_to_cancel_asks_nothing_and_a_later_job_is_cancelled_too(ask: Run) -> None:
    async def leave(gate: FailingGate, left: Abandoned) -> None:
        left.add({})
        await left.finish()
        assert gate.calls == []

    async def leave_again(gate: FailingGate, left: Abandoned) -> None:
        for name in ("a", "b"):
            await gate.queue(name)
            left.add({name: 60.0})
            await gate.answered.wait()
            assert await gate.waiting() == 0
            gate.answered.clear()

    ask(leave, 0)
    ask(leave_again, 0)
