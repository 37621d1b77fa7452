"""What happens to a call before the gate: its body is waited for, its tenant takes turns."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from models.directory import ModelDirectory
from service.config import Settings
from service.dispatch import Dispatcher
from service.engine_board import EngineBoard
from service.errors import BodyTimeoutError, EngineAbsentError
from service.gate.gate import AsyncGate
from service.insight import Insight
from service.metrics import Metrics
from service.ranking import Call, Ranker
from service.tenants import Tenant, Tenants

TENANTS = Tenants(
    tuple((hashlib.sha256(name.encode()).hexdigest(), Tenant(name, 1)) for name in ("ada", "bob"))
)


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    return Metrics(TENANTS.all, 1, CollectorRegistry())


@pytest.fixture
def make_ranker(
    tiny_directory: ModelDirectory, tmp_path: Path, metrics: Metrics
) -> Callable[[int], Ranker]:
    """No engine stands behind it: whatever reaches the gate is refused with EngineAbsentError."""

    def make(default_deadline_ms: int) -> Ranker:
        settings = Settings(default_deadline_ms=default_deadline_ms)
        gate = AsyncGate(f"unix://{tmp_path}/none.sock", "pool", settings.gate)
        card, prompt = tiny_directory.card, tiny_directory.prompt
        dispatcher = Dispatcher(gate)
        insight = Insight(settings, TENANTS, dispatcher)
        board = EngineBoard(registry=CollectorRegistry())
        return Ranker(settings, card, prompt, TENANTS, dispatcher, insight, metrics, board)

    return make


async def never() -> bytes:
    await asyncio.Event().wait()
    raise AssertionError


async def slate() -> bytes:
    candidates = [{"id": str(number), "text": "Nurse " * 200} for number in range(20)]
    return json.dumps({"context": "Nurse", "candidates": candidates}).encode()


def test_a_body_that_never_ends_is_refused(make_ranker: Callable[[int], Ranker]) -> None:
    call = Call("request", "Bearer ada", never)
    with pytest.raises(BodyTimeoutError, match="50 ms"):
        asyncio.run(asyncio.wait_for(make_ranker(50).rank(call), 5.0))


def test_a_tenants_many_slates_do_not_keep_anothers_from_being_tokenized(
    make_ranker: Callable[[int], Ranker],
) -> None:
    ranker = make_ranker(30_000)
    order: list[str] = []

    async def rank(key: str) -> None:
        with pytest.raises(EngineAbsentError):
            await ranker.rank(Call("request", f"Bearer {key}", slate))
        order.append(key)

    async def rank_all() -> None:
        await asyncio.gather(*[rank("ada") for _ in range(20)], rank("bob"))

    asyncio.run(rank_all())
    assert order.count("ada") == 20
    assert order.index("bob") <= 3
