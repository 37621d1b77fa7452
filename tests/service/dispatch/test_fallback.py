"""A shared Redis dies or freezes under load: a server goes on through its own, and comes back."""

from __future__ import annotations

import asyncio
import signal
import threading
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from models.engines.base import ScoreJob
from service.dispatch.dispatch import Dispatcher
from service.dispatch.fallback import Fallback
from service.engines.engine import EngineLoop
from service.engines.joint_engine import JointEngine
from service.engines.shared_engine import SharedEngine
from service.gate.errors import GateUnavailableError
from service.gate.gate import AsyncGate, WorkerGate
from service.gate.settings import GateSettings
from tests.e2e.server import wait_until
from tests.service.engines.scripted_engine import ScriptedEngine, job
from tests.service.gate.redis_servers import RedisServer, demoted, limited, running

POOL, SETTINGS = f"pool-{uuid.uuid4().hex}", GateSettings()
CLIENTS = 4
COST = 4  # tokens that the engine computes for each job
Outage = Callable[[RedisServer], AbstractContextManager[None]]


@dataclass
class Log:
    """What clients, engine and gauge saw."""

    scored: Counter[int] = field(default_factory=Counter)
    answered: dict[int, str] = field(default_factory=dict)  # by job, the mode it was sent in
    refused: set[int] = field(default_factory=set)
    modes: list[str] = field(default_factory=list)

    def logit(self, score_job: ScoreJob) -> float:
        number = score_job.candidates[0][0]
        self.scored[number] += 1
        return float(number)

    def show(self, mode: str) -> None:
        if self.modes[-1:] != [mode]:
            self.modes.append(mode)


@contextmanager
def serving(log: Log, urls: Sequence[str]) -> Iterator[None]:
    """One engine behind all of these, as an engine process has it."""
    gates = [WorkerGate(url, POOL, SETTINGS, "worker") for url in urls]
    views = SharedEngine(JointEngine(ScriptedEngine(log.logit)), len(urls)).views
    loops = [EngineLoop(view, gate, 4096, 8) for view, gate in zip(views, gates, strict=True)]
    threads = [threading.Thread(target=run) for loop in loops for run in (loop.run, loop.keep)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: all(gate.stats().workers for gate in gates), 10.0, "the worker")
        yield
    finally:
        for loop in loops:
            loop.stop()
        for thread in threads:
            thread.join(10.0)


@asynccontextmanager
async def gateway_to(urls: Sequence[str], log: Log) -> AsyncIterator[Fallback]:
    gates = [AsyncGate(url, POOL, SETTINGS) for url in urls]
    gateway = Fallback(*[Dispatcher(gate, reply_to="here") for gate in gates], show=log.show)
    tasks = [asyncio.create_task(loop) for loop in gateway.loops()]
    await until(lambda: log.modes == ["shared"])
    for side in gateway._sides:
        assert await side.ready()
    yield gateway
    await gateway.finish()
    gateway.close()
    await asyncio.gather(*tasks)
    for gate in gates:
        await gate.close()


@asynccontextmanager
async def load(gateway: Fallback, log: Log) -> AsyncIterator[None]:
    """Clients that never pause; each job is answered or refused, as they note."""
    stopping, numbers = asyncio.Event(), iter(range(10**6))

    async def call() -> None:
        while not stopping.is_set():
            number, mode = next(numbers), gateway.mode
            try:
                [result] = await gateway.score([job(str(number), gateway.reply_to)])
            except GateUnavailableError:
                log.refused.add(number)
                await asyncio.sleep(0)
            else:
                assert result.rows == [(float(number),)]
                log.answered[number] = mode

    clients = [asyncio.create_task(call()) for _ in range(CLIENTS)]
    yield
    stopping.set()
    await asyncio.gather(*clients)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30.0):
        while not condition():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


@contextmanager
def killed(server: RedisServer) -> Iterator[None]:
    server.kill()
    yield
    server.start()


@contextmanager
def frozen(server: RedisServer) -> Iterator[None]:
    server.signal(signal.SIGSTOP)
    yield
    server.signal(signal.SIGCONT)


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "shared", {"appendfsync": "always"})
    with running(server):
        yield server


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", [killed, frozen, demoted])
def test_a_server_serves_alone_while_the_shared_redis_is_away_and_charges_nobody_twice(
    shared: RedisServer, service_redis_url: str, how: Outage
) -> None:
    log, urls = Log(), [shared.url, service_redis_url]
    before = service_of(service_redis_url)

    def answered(mode: str) -> int:
        return [*log.answered.values()].count(mode)

    async def live_through_it() -> None:
        async with gateway_to(urls, log) as gateway, load(gateway, log):
            await until(lambda: answered("shared") > 50)
            with how(shared):
                await until(lambda: answered("local") > 50)
                assert await gateway.ready()
                first = answered("shared")
            await until(lambda: answered("shared") > first + 50)

    with serving(log, urls):
        asyncio.run(live_through_it())
        wait_until(lambda: idles(urls), 15.0, "an end of all leases")
    assert log.modes == ["shared", "local", "shared"]
    assert set(log.answered) <= set(log.scored)
    assert not log.refused & set(log.answered)
    assert set(log.scored.values()) == {1}
    charged = service_of(shared.url) + service_of(service_redis_url) - before
    assert charged == COST * len(log.scored)


def test_without_a_side_of_its_own_a_server_refuses_and_says_so(shared: RedisServer) -> None:
    log = Log()

    async def live_through_it() -> None:
        async with gateway_to([shared.url], log) as gateway, load(gateway, log):
            await until(lambda: len(log.answered) > 10)
            shared.kill()
            await until(lambda: log.modes[-1] == "refusing")
            assert not await gateway.ready()
            await asyncio.to_thread(shared.start)
            await until(lambda: log.modes[-1] == "shared")
            last = len(log.answered)
            await until(lambda: len(log.answered) > last)

    with serving(log, [shared.url]):
        asyncio.run(live_through_it())
    assert log.refused
    assert log.modes == ["shared", "refusing", "shared"]


def test_a_job_is_explained_where_it_waits_and_the_policy_is_switched_on_both_sides(
    shared: RedisServer, service_redis_url: str
) -> None:
    """Nobody serves; the shared Redis refuses writes, as one that became a replica would."""
    log, urls = Log(), [shared.url, service_redis_url]
    workers = [WorkerGate(url, POOL, SETTINGS, "worker") for url in urls]
    for worker in workers:
        worker.join()

    def policies() -> list[str]:
        return [worker.stats().policy for worker in workers]

    async def live_through_it() -> None:
        async with gateway_to(urls, log) as gateway:
            await gateway.configure("fcfs")
            assert policies() == ["fcfs", "fcfs"]
            early = asyncio.create_task(gateway.score([job("1", gateway.reply_to)]))
            await until(lambda: workers[0].stats().queued_jobs == 1)
            with limited(shared.client(), "min-replicas-to-write"):
                await until(lambda: log.modes[-1] == "local")
                with pytest.raises(GateUnavailableError):
                    await early
                late = asyncio.create_task(gateway.score([job("2", gateway.reply_to)]))
                await until(lambda: workers[1].stats().queued_jobs == 1)
                names = [f"{gateway.reply_to}-{number}" for number in (1, 2)]
                assert [one.state for one in await gateway.explain(names)] == ["unknown", "queued"]
                with pytest.raises(GateUnavailableError):
                    await gateway.configure("dlpm")
            await until(lambda: log.modes[-1] == "shared")
            assert policies() == ["fcfs", "fcfs"], "what was refused changed nothing"
            await gateway.configure("dlpm")
            assert policies() == ["dlpm", "dlpm"]
            late.cancel()
        await until(lambda: idles(urls))

    asyncio.run(live_through_it())


def idles(urls: Sequence[str]) -> bool:
    stats = [WorkerGate(url, POOL, SETTINGS, "observer").stats() for url in urls]
    return not any(one.queued_jobs + one.leased_jobs for one in stats)


def service_of(url: str) -> int:
    """Charged, or used above what was believed to be needed."""
    stats = WorkerGate(url, POOL, SETTINGS, "observer").stats()
    return stats.service + stats.uncharged


def test_a_probe_under_way_does_not_outlive_the_gateway(shared: RedisServer) -> None:
    async def use() -> None:
        gate = AsyncGate(shared.url, POOL, SETTINGS)
        gateway = Fallback(Dispatcher(gate))
        with frozen(shared):
            watching = asyncio.create_task(gateway.watch())
            await until(lambda: bool(gateway._probes))
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            assert gateway._probes
            await gateway.finish()
            assert asyncio.all_tasks() == {asyncio.current_task()}
        await gate.close()

    asyncio.run(use())
