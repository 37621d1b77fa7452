"""A call is taken in, admitted, sent and followed on a real Redis, whatever it asks for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from models.engines.base import EngineJob, JobScores, ScoreJob
from service.base.config import Settings
from service.base.errors import RequestNotFoundError, UnauthorizedError
from service.bodies.schemas import ContextRequest
from service.bodies.validation import parse_context_request
from service.gate.errors import DeadlineExceededError, TenantThrottledError
from service.gate.job import Job, Level
from service.jobs.engine_report import EngineReport, encode_report
from service.slates.slate import Errand
from service.tenants.tenants import Tenant
from service.walk.reception import Clock, deadline
from tests.service.walk.front_desk import TENANTS, Desk, call, open_desk

CLEO = TENANTS.authenticate("Bearer cleo")
Use = Callable[[Desk], Awaitable[None]]


@pytest.fixture
def at_desk(service_redis_url: str, pool: str) -> Callable[..., None]:
    def run(use: Use, **settings: int) -> None:
        async def with_desk() -> None:
            async with open_desk(service_redis_url, pool, Settings(**settings)) as desk:  # type: ignore[arg-type]
                await use(desk)

        asyncio.run(with_desk())

    return run


async def encode(request: ContextRequest) -> str:
    return f"tokens of {request.context}"


def jobs(errand: Errand, *candidates: int) -> list[Job]:
    return [
        errand.job(number, ScoreJob((1, 2), ("0" * 32,), ((token,),)), 16, 1)
        for number, token in enumerate(candidates)
    ]


def own_token(job: EngineJob) -> JobScores:
    assert isinstance(job, ScoreJob)
    return JobScores((float(job.candidates[0][0]),), 2, 0, 1)


def errand_of(desk: Desk, tenant: str = "ada") -> Errand:
    return Errand(f"slate-{tenant}", (Level(tenant),), 0, 20_000, desk.gateway.reply_to)


def test_who_is_admitted_is_sent_under_its_class_and_user_for_what_is_left_of_its_time(
    at_desk: Callable[..., None],
) -> None:
    body = b'{"context": "Nurse", "user": "uma", "priority": "batch", "deadline_ms": 5000}'

    async def admit(desk: Desk) -> None:
        one, two = [
            await desk.reception.admit(call("cleo", body), CLEO, parse_context_request, encode)
            for _ in range(2)
        ]
        assert (one.request.context, one.tokens) == ("Nurse", "tokens of Nurse")
        assert [level.name for level in one.errand.path] == ["batch", "cleo", "uma"]
        assert one.errand.tenant_level == CLEO.level == 1
        assert one.errand.reply_to == desk.gateway.reply_to
        assert 1 <= one.errand.deadline_ms <= one.clock.deadline_ms == 5_000
        assert one.errand.slate_id != two.errand.slate_id

    at_desk(admit)


def test_a_request_that_names_no_deadline_has_the_default_one(at_desk: Callable[..., None]) -> None:
    async def admit(desk: Desk) -> None:
        found = await desk.reception.admit(
            call("ada", b'{"context": "Nurse"}'), Tenant("ada"), parse_context_request, encode
        )
        assert found.clock.deadline_ms == 7_000
        assert found.errand.deadline_ms <= 7_000

    at_desk(admit, default_deadline_ms=7_000)


def test_tokens_that_take_too_long_end_with_the_deadline(at_desk: Callable[..., None]) -> None:
    async def never(_: ContextRequest) -> str:
        await asyncio.Event().wait()
        raise AssertionError

    async def admit(desk: Desk) -> None:
        late = call("ada", b'{"context": "Nurse", "deadline_ms": 10}')
        with pytest.raises(DeadlineExceededError, match="deadline_ms 10;") as refusal:
            await desk.reception.admit(late, Tenant("ada"), parse_context_request, never)
        assert refusal.value.param == "deadline_ms"

    at_desk(admit)


def test_results_come_in_order_and_each_is_heard_of_and_so_is_the_engines_report(
    at_desk: Callable[..., None],
) -> None:
    report = encode_report(EngineReport("worker", {"dtype": "scripted"}, (0.75,)))

    async def send(desk: Desk) -> None:
        heard: dict[str, float] = {}
        sent = jobs(errand_of(desk), 7, 5, 6)
        results, _ = await asyncio.gather(
            desk.reception.send(
                sent, "mine", lambda name, one: heard.update({name: one.rows[0][0]})
            ),
            desk.serve(3, own_token, report),
        )
        assert [result.rows for result in results] == [[(7.0,)], [(5.0,)], [(6.0,)]]
        assert heard == {"slate-ada-0": 7.0, "slate-ada-1": 5.0, "slate-ada-2": 6.0}
        described = desk.reception.board.describe()
        assert described["engines"] == [{"count": 1, "dtype": "scripted"}]
        assert described["label_mass"]["mean"] == 0.75

    at_desk(send)


def test_a_request_can_be_asked_about_while_it_waits_and_no_longer(
    at_desk: Callable[..., None],
) -> None:
    async def send(desk: Desk) -> None:
        states: list[str] = []

        def ask(job: EngineJob) -> JobScores:
            asked = asyncio.run_coroutine_threadsafe(
                desk.insight.explain("Bearer ada", "mine"), loop
            )
            states.extend(one["state"] for one in asked.result(10.0)["jobs"])
            return own_token(job)

        loop = asyncio.get_running_loop()
        sent = jobs(errand_of(desk), 1)
        await asyncio.gather(desk.reception.send(sent, "mine"), desk.serve(1, ask))
        assert states == ["leased"]
        with pytest.raises(RequestNotFoundError):
            await desk.insight.explain("Bearer ada", "mine")

    at_desk(send)


def test_who_was_refused_by_the_gate_is_refused_unread_for_a_moment_and_counted(
    at_desk: Callable[..., None],
) -> None:
    async def send(desk: Desk) -> None:
        with pytest.raises(TenantThrottledError):
            await desk.reception.send(jobs(errand_of(desk), 1, 2), "mine")
        with pytest.raises(TenantThrottledError):
            desk.reception.refuse_unread("Bearer ada")
        assert desk.requests("ada", "tenant_throttled") == 1.0
        desk.reception.refuse_unread("Bearer bob")
        desk.reception.refuse_unread("Bearer nobody")
        with pytest.raises(UnauthorizedError):
            desk.reception.authenticate("Bearer nobody")

    at_desk(send, max_tenant_in_flight=1)


def test_long_work_runs_beside_the_event_loop(at_desk: Callable[..., None]) -> None:
    async def work(desk: Desk) -> None:
        thread = await desk.reception.in_turn(Tenant("ada"), threading.current_thread)
        assert thread is not threading.main_thread()

    at_desk(work)


def test_a_deadline_lets_what_is_in_time_pass_and_no_more() -> None:
    async def wait() -> list[str]:
        done: list[str] = []
        async with deadline(Clock(time.perf_counter(), 60_000)):
            done.append("in time")
        with pytest.raises(DeadlineExceededError):
            async with deadline(Clock(time.perf_counter() - 1.0, 500)):
                await asyncio.Event().wait()
        return done

    assert asyncio.run(wait()) == ["in time"]
