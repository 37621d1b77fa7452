"""What happens to a call before the gate: its body is waited for, its tenant takes turns."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from models.directory import ModelDirectory
from models.prompt import PromptBuilder
from service.base.config import Settings
from service.base.errors import BodyTimeoutError, EngineAbsentError, InvalidRequestError
from service.bodies.schemas import RankRequest
from service.bodies.validation import parse_rank_request
from service.dispatch.dispatch import Dispatcher
from service.dispatch.fallback import Fallback
from service.gate.errors import TenantThrottledError
from service.gate.gate import AsyncGate
from service.gate.job import Job, Level
from service.jobs.jobs import JobResult
from service.metrics.engine_board import EngineBoard
from service.metrics.metrics import Metrics
from service.slates.slate import Slate, encode_slate
from service.tenants.tenants import Tenant, Tenants
from service.walk import ranking
from service.walk.insight import Insight
from service.walk.ranking import Ranker
from service.walk.reception import LONG_BODY_BYTES, Call, Reception

CLASSES = (Level("interactive", 8), Level("batch", 1))
TENANTS = Tenants(
    tuple(
        (hashlib.sha256(tenant.name.encode()).hexdigest(), tenant)
        for tenant in (Tenant("ada"), Tenant("bob"), Tenant("cleo", classes=CLASSES))
    )
)


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    return Metrics(TENANTS.all, 1, CollectorRegistry())


@pytest.fixture
def make_ranker(
    tiny_directory: ModelDirectory, tmp_path: Path, metrics: Metrics
) -> Callable[..., Ranker]:
    """No engine stands behind it: whatever reaches the gate is refused with EngineAbsentError."""

    def make(default_deadline_ms: int, **changes: Any) -> Ranker:
        # One thread: with several the system decides whose work ends first.
        settings = Settings(default_deadline_ms=default_deadline_ms, tokenizer_threads=1, **changes)
        gate = AsyncGate(f"unix://{tmp_path}/none.sock", "pool", settings.gate)
        card, prompt = tiny_directory.card, tiny_directory.prompt
        gateway = Fallback(Dispatcher(gate))
        insight = Insight(settings, TENANTS, gateway)
        board = EngineBoard(registry=CollectorRegistry())
        reception = Reception(settings, TENANTS, gateway, insight, metrics, board)
        return Ranker(reception, card, prompt)

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


@pytest.mark.parametrize("limit", ["max_tenant_jobs", "max_tenant_in_flight", "max_pool_jobs"])
def test_a_slate_that_no_wait_would_let_in_is_told_so(
    make_ranker: Callable[..., Ranker], limit: str
) -> None:
    call = Call("request", "Bearer ada", slate)
    with pytest.raises(InvalidRequestError, match=r"fill 10 batches .* 9 queued; send fewer"):
        asyncio.run(make_ranker(30_000, token_budget=256, **{limit: 9}).rank(call))
    with pytest.raises(EngineAbsentError):
        asyncio.run(make_ranker(30_000, token_budget=256, **{limit: 10}).rank(call))


def test_a_tenants_many_slates_do_not_keep_anothers_from_being_tokenized(
    make_ranker: Callable[[int], Ranker],
) -> None:
    ranker = make_ranker(30_000)
    order: list[str] = []
    numbers = itertools.count()

    async def unknown() -> bytes:
        return (await slate()).replace(b"Nurse", b"Nurse%d" % next(numbers))

    async def rank(key: str) -> None:
        with pytest.raises(EngineAbsentError):
            await ranker.rank(Call("request", f"Bearer {key}", unknown))
        order.append(key)

    async def rank_all() -> None:
        await asyncio.gather(*[rank("ada") for _ in range(20)], rank("bob"))

    asyncio.run(rank_all())
    assert order.count("ada") == 20
    assert order.index("bob") <= 3


def test_a_long_body_is_parsed_off_the_event_loop(make_ranker: Callable[[int], Ranker]) -> None:
    ranker, parsed_in = make_ranker(30_000), []

    def parse(body: bytes, settings: Settings) -> RankRequest:
        parsed_in.append(threading.current_thread() is threading.main_thread())
        return parse_rank_request(body, settings)

    async def rank_both() -> None:
        for length in (1, 2 * LONG_BODY_BYTES):
            body = json.dumps({"context": "x" * length, "candidates": [{"id": "a", "text": "b"}]})

            async def read(content: bytes = body.encode()) -> bytes:
                return content

            with pytest.raises(EngineAbsentError):
                await ranker.rank(Call("request", "Bearer ada", read), parse)

    asyncio.run(rank_both())
    assert parsed_in == [True, False]


def test_a_tenant_at_its_cap_is_refused_unread_for_a_moment(
    make_ranker: Callable[[int], Ranker], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def full(_: Dispatcher, jobs: Sequence[Job], hear: object) -> list[JobResult]:
        asked.append(jobs[0].tenant)
        raise TenantThrottledError("wait for answers", retry_after_ms=60_000)

    async def call(ranker: Ranker, *keys: str) -> None:
        for key in keys:
            with pytest.raises(TenantThrottledError, match="wait for answers"):
                await ranker.rank(Call("request", f"Bearer {key}", slate))

    monkeypatch.setattr(Dispatcher, "score", full)
    asyncio.run(call(make_ranker(10_000), "ada", "ada", "bob"))
    assert asked == ["ada", "bob"]


def test_before_its_request_is_read_only_a_tenant_refused_a_moment_ago_is_refused(
    make_ranker: Callable[[int], Ranker], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(_: Dispatcher, jobs: Sequence[Job], hear: object) -> list[JobResult]:
        raise TenantThrottledError("wait for answers", retry_after_ms=60_000)

    async def call(ranker: Ranker) -> None:
        refuse_unread = ranker.reception.refuse_unread
        assert not refuse_unread("Bearer ada")
        with pytest.raises(TenantThrottledError):
            await ranker.rank(Call("request", "Bearer ada", slate))
        with pytest.raises(TenantThrottledError, match="wait for answers"):
            refuse_unread("Bearer ada")
        assert not refuse_unread("Bearer bob")
        for nobody in (None, "Bearer nobody"):  # told so by the walk itself
            assert not refuse_unread(nobody)

    monkeypatch.setattr(Dispatcher, "score", full)
    asyncio.run(call(make_ranker(10_000)))


def test_a_class_that_is_full_is_refused_unparsed_and_the_other_is_not(
    make_ranker: Callable[[int], Ranker], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def full(_: Dispatcher, jobs: Sequence[Job], hear: object) -> list[JobResult]:
        asked.append(jobs[0].tenant_id)
        raise TenantThrottledError("wait for answers", retry_after_ms=60_000)

    async def garbage() -> bytes:
        return b"{"

    async def batch() -> bytes:
        return json.dumps({**json.loads(await slate()), "priority": "batch"}).encode()

    async def escaped() -> bytes:
        return (await batch()).replace(b"priority", b"\\u0070riority")

    async def call(ranker: Ranker) -> None:
        reception = ranker.reception
        assert not reception.refuse_unread("Bearer cleo")
        for read_body in (slate, garbage, escaped, batch):
            with pytest.raises(TenantThrottledError, match="wait for answers"):
                await ranker.rank(Call("request", "Bearer cleo", read_body))
            if read_body is slate:  # only the body tells of which class the next one is
                assert reception.refuse_unread("Bearer cleo")
                reception.refuse_unparsed("Bearer cleo", await batch())
                with pytest.raises(TenantThrottledError, match="wait for answers"):
                    reception.refuse_unparsed("Bearer cleo", await garbage())
        with pytest.raises(TenantThrottledError, match="wait for answers"):
            reception.refuse_unread("Bearer cleo")

    monkeypatch.setattr(Dispatcher, "score", full)
    asyncio.run(call(make_ranker(10_000)))
    assert asked == ["interactive/cleo", "batch/cleo"]


def test_tokens_of_a_slates_texts_are_remembered(
    make_ranker: Callable[[int], Ranker], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenized: list[int] = []
    encode = PromptBuilder.encode_candidates

    def noting(builder: PromptBuilder, texts: Sequence[str], prompt: str) -> object:
        tokenized.append(len(texts))
        return encode(builder, texts, prompt)

    async def call(ranker: Ranker) -> None:
        for _ in range(2):
            with pytest.raises(EngineAbsentError):
                await ranker.rank(Call("request", "Bearer ada", slate))

    monkeypatch.setattr(PromptBuilder, "encode_candidates", noting)
    asyncio.run(call(make_ranker(10_000)))
    assert tokenized == [1], "the slate's 20 texts are one"


def test_a_remembered_slate_waits_for_no_thread(
    make_ranker: Callable[[int], Ranker], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded_in: list[bool] = []

    def noting(*arguments: Any) -> Slate:
        encoded_in.append(threading.current_thread() is threading.main_thread())
        return encode_slate(*arguments)

    async def call(ranker: Ranker) -> None:
        for _ in range(2):
            with pytest.raises(EngineAbsentError):
                await ranker.rank(Call("request", "Bearer ada", slate))

    monkeypatch.setattr(ranking, "encode_slate", noting)
    asyncio.run(call(make_ranker(10_000)))
    assert encoded_in == [False, True]
