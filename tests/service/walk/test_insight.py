"""A tenant learns why its own requests wait, not others'; the operator switches the policy."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from hashlib import sha256

import pytest

from service.base.config import Settings
from service.base.errors import (
    InvalidRequestError,
    RequestNotFoundError,
    RouteNotFoundError,
    UnauthorizedError,
)
from service.bodies.schemas import QueueAnswer
from service.dispatch.dispatch import Dispatcher
from service.dispatch.fallback import Fallback
from service.gate.gate import AsyncGate
from service.gate.job import Explanation, Job, Level, LevelStanding
from service.gate.settings import GateSettings
from service.tenants.tenants import Tenant, Tenants
from service.walk.insight import Insight, explained

TENANTS = Tenants(tuple((sha256(n.encode()).hexdigest(), Tenant(n)) for n in ("ada", "bob")))


def job(name: str, tokens: int) -> Job:
    return Job(name, (Level("ada"),), 0, (), 16, 0, tokens, 10_000, "here", b"")


def body(content: bytes) -> Callable[[], Awaitable[bytes]]:
    async def read() -> bytes:
        return content

    return read


def with_insight(
    url: str, pool: str, work: Callable[[Insight, AsyncGate], Awaitable[None]], admin_key: str = ""
) -> None:
    async def run() -> None:
        gate = AsyncGate(url, pool, GateSettings())
        try:
            await work(
                Insight(Settings(admin_key=admin_key), TENANTS, Fallback(Dispatcher(gate))), gate
            )
        finally:
            await gate.close()

    asyncio.run(run())


def test_a_waiting_request_is_explained_job_by_job(service_redis_url: str, pool: str) -> None:
    async def ask(insight: Insight, gate: AsyncGate) -> None:
        names = ["slate-0", "slate-1"]
        for name in names:
            await gate.submit(job(name, 100))
        with insight.following("ada", "request", names):
            answer = QueueAnswer.model_validate(await insight.explain("Bearer ada", "request"))
        assert answer.request_id == "request"
        assert [one.state for one in answer.jobs] == ["queued", "queued"]
        assert [one.due_before for one in answer.jobs] == [0, 1]
        assert [level.node for level in answer.jobs[0].levels] == ["ada"]

    with_insight(service_redis_url, pool, ask)


def test_requests_of_others_and_finished_ones_are_not_found(
    service_redis_url: str, pool: str
) -> None:
    async def ask(insight: Insight, _: AsyncGate) -> None:
        with insight.following("ada", "request", ["slate-0"]):
            with pytest.raises(RequestNotFoundError, match="'request'"):
                await insight.explain("Bearer bob", "request")
            with pytest.raises(UnauthorizedError):
                await insight.explain(None, "request")
            with insight.following("ada", "request", ["slate-1"]):
                pass
            with pytest.raises(RequestNotFoundError):
                await insight.explain("Bearer ada", "request")
        with pytest.raises(RequestNotFoundError):
            await insight.explain("Bearer ada", "other")

    with_insight(service_redis_url, pool, ask)


def test_an_earlier_request_ends_without_hiding_a_later_one_of_its_id(
    service_redis_url: str, pool: str
) -> None:
    async def ask(insight: Insight, _: AsyncGate) -> None:
        earlier = insight.following("ada", "request", ["slate-0"])
        with earlier, insight.following("ada", "request", ["slate-1", "slate-2"]):
            earlier.__exit__(None, None, None)
            answer = await insight.explain("Bearer ada", "request")
            assert [one["state"] for one in answer["jobs"]] == ["unknown", "unknown"]

    with_insight(service_redis_url, pool, ask)


def test_the_bound_in_time_is_the_bound_at_the_drain_rate() -> None:
    levels = (LevelStanding("ada", -5, 2, 3, 1, 4),)
    explanation = Explanation(
        "queued", levels=levels, queued_cost=9_000, drain_rate=500, bound=1_000
    )
    assert explained(explanation)["bound_ms"] == 2_000
    assert explained(replace(explanation, queued_cost=600))["bound_ms"] == 1_200
    assert explained(replace(explanation, drain_rate=0))["bound_ms"] is None


def test_policy_is_switched_with_the_admin_key_only(service_redis_url: str, pool: str) -> None:
    async def ask(insight: Insight, gate: AsyncGate) -> None:
        for header in ("Bearer ada", None):
            with pytest.raises(UnauthorizedError):
                await insight.configure(header, body(b'{"policy": "fcfs"}'))
            with pytest.raises(UnauthorizedError):
                await insight.policy(header)
        with pytest.raises(InvalidRequestError, match=r"policy is unknown; .*dlpm"):
            await insight.configure("Bearer root", body(b'{"policy": "lifo"}'))
        assert (await gate.stats()).policy == "dlpm"
        answer = await insight.configure("Bearer root", body(b'{"policy": "fcfs"}'))
        assert answer == {"policy": (await gate.stats()).policy} == {"policy": "fcfs"}
        assert await insight.policy("Bearer root") == {"policy": "fcfs"}

    with_insight(service_redis_url, pool, ask, admin_key="root")


def test_without_an_admin_key_there_is_no_such_route(service_redis_url: str, pool: str) -> None:
    async def ask(insight: Insight, _: AsyncGate) -> None:
        with pytest.raises(RouteNotFoundError):
            await insight.configure("Bearer ", body(b'{"policy": "fcfs"}'))
        with pytest.raises(RouteNotFoundError):
            await insight.policy("Bearer ")

    with_insight(service_redis_url, pool, ask)
