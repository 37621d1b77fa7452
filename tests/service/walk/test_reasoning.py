"""A request for reasons on its whole walk: real tokens, a real Redis, an engine that writes."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from models.directory import load_model_directory
from models.engines.base import EngineJob, ReasonJob, Written
from models.reasons.grammar import ReasonUnreadableError
from service.base.config import Settings
from service.base.errors import ScoringError
from service.jobs.jobs import JobFailure
from service.walk.reasoning import Reasoner
from tests.models.reasons.test_lattice import ways
from tests.service.walk.front_desk import Desk, call, open_desk

DIRECTORY = load_model_directory(Path("models/demo_reason"))
MEMBER = "Skills: Writing. Experience: Cut materials; Count items. Tools used: Tin snips."
JOB = "Sewer. Duties: Trim fabrics; Mark products. Tools: Shears."
NOTHING = "“”"
Use = Callable[[Desk, Reasoner], Awaitable[None]]


@pytest.fixture
def at_desk(service_redis_url: str, pool: str) -> Callable[[Use], None]:
    def run(use: Use) -> None:
        async def with_desk() -> None:
            async with open_desk(service_redis_url, pool, Settings()) as desk:
                await use(desk, Reasoner(desk.reception, DIRECTORY.card, DIRECTORY.prompt))

        asyncio.run(with_desk())

    return run


def body(*texts: str) -> bytes:
    candidates = [{"id": f"c{number}", "text": text} for number, text in enumerate(texts)]
    return json.dumps({"context": MEMBER, "candidates": candidates}).encode()


def first_way(job: EngineJob) -> Written:
    assert isinstance(job, ReasonJob)
    tokens = min(ways(job.answers))
    return Written(tokens, len(job.context_ids), 0, len(job.candidate))


def test_every_candidate_has_its_row_and_what_was_written_is_counted(
    at_desk: Callable[[Use], None],
) -> None:
    written: list[Written] = []

    def write(job: EngineJob) -> Written:
        written.append(first_way(job))
        return written[-1]

    async def ask(desk: Desk, reasoner: Reasoner) -> None:
        told: list[dict[str, Any]] = []
        answer, _ = await asyncio.gather(
            reasoner.reason(call("ada", body(NOTHING, JOB, JOB)), told.append),
            desk.serve(2, write),
        )
        rows = answer["results"]
        assert [(row["id"], row["status"]) for row in rows] == [
            ("c0", "no_fact"),
            ("c1", "ok"),
            ("c2", "ok"),
        ]
        assert all(f"“{rows[1]['facts'][side]['text']}”" in rows[1]["reason"] for side in SIDES)
        assert sorted(told, key=rows.index) == rows
        assert told[-1] == rows[0], "of whom nothing can be said is told last"
        assert answer["usage"]["output_tokens"] == sum(len(one.tokens) for one in written)
        assert answer["usage"]["candidate_tokens"] == sum(one.candidate_tokens for one in written)
        assert answer["timings_ms"]["queue"] == 2.0
        assert (answer["request_id"], answer["context_status"]) == ("mine", "ok")
        assert answer["model"]["digest"] == DIRECTORY.card.digest
        assert desk.requests("ada", "reasoned") == 1.0

    at_desk(ask)


SIDES = ("context", "candidate")


def test_a_row_is_told_while_others_are_still_to_be_written(at_desk: Callable[[Use], None]) -> None:
    first_told = threading.Event()
    jobs: list[EngineJob] = []

    def write(job: EngineJob) -> Written:
        if jobs:
            assert first_told.wait(10.0)
        jobs.append(job)
        return first_way(job)

    async def ask(desk: Desk, reasoner: Reasoner) -> None:
        await asyncio.gather(
            reasoner.reason(call("ada", body(JOB, JOB)), lambda _: first_told.set()),
            desk.serve(2, write),
        )
        assert len(jobs) == 2

    at_desk(ask)


def test_where_nothing_can_be_said_no_engine_is_asked(at_desk: Callable[[Use], None]) -> None:
    async def ask(desk: Desk, reasoner: Reasoner) -> None:
        told: list[dict[str, Any]] = []
        answer = await reasoner.reason(call("ada", body(NOTHING)), told.append)
        assert told == answer["results"]
        assert [row["status"] for row in told] == ["no_fact"]
        assert answer["usage"]["output_tokens"] == 0
        assert desk.worker.stats().queued_jobs == 0

    at_desk(ask)


def test_an_engines_failure_is_raised_and_counted_as_the_tenants(
    at_desk: Callable[[Use], None],
) -> None:
    async def ask(desk: Desk, reasoner: Reasoner) -> None:
        asked = asyncio.create_task(reasoner.reason(call("bob", body(JOB))))
        await desk.serve(1, lambda _: JobFailure("broken", "no ink"))
        with pytest.raises(ScoringError, match="no ink"):
            await asked
        assert desk.requests("bob", "scoring_failed") == 1.0
        assert desk.requests("bob", "reasoned") == 0.0

    at_desk(ask)


def test_a_sentence_that_no_text_states_reaches_nobody(at_desk: Callable[[Use], None]) -> None:
    async def ask(desk: Desk, reasoner: Reasoner) -> None:
        told: list[dict[str, Any]] = []
        asked = asyncio.create_task(reasoner.reason(call("ada", body(JOB)), told.append))
        await desk.serve(1, lambda job: Written((1, 2, 3), len(job.context_ids), 0, 1))
        with pytest.raises(ReasonUnreadableError):
            await asked
        assert told == []

    at_desk(ask)


def test_what_is_described_are_the_reasoners_own_limits(at_desk: Callable[[Use], None]) -> None:
    async def describe(desk: Desk, reasoner: Reasoner) -> None:
        described = reasoner.describe()
        assert described["name"] == DIRECTORY.card.name
        assert described["limits"]["max_candidates"] == desk.reception.settings.most_reasons

    at_desk(describe)
