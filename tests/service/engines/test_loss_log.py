"""The operator hears of lost jobs once, and nothing while none is lost."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from service.engines.engine import EngineLoop
from service.engines.joint_engine import JointEngine
from service.engines.loss_log import LossLog
from service.gate.gate import WorkerGate
from service.gate.job import Claim, Reaped
from service.gate.settings import GateSettings
from tests.service.engines.scripted_engine import ScriptedEngine, only_candidate

LOGGER = logging.getLogger("fairslate.test")


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    caplog.clear()
    return lines


@pytest.fixture
def losses(caplog: pytest.LogCaptureFixture) -> LossLog:
    caplog.set_level(logging.INFO, LOGGER.name)
    return LossLog(LOGGER)


def test_nothing_is_told_while_nothing_is_lost(
    losses: LossLog, caplog: pytest.LogCaptureFixture
) -> None:
    losses.joined(0)
    losses.claimed(Claim((), 0, 1))
    losses.reaped(Reaped(requeued=0, lost=0, expired=0, now_ms=1))
    assert told(caplog) == []


@pytest.mark.parametrize(("requeued", "lost"), [(2, 0), (0, 3)])
def test_ended_leases_are_a_warning(
    losses: LossLog, caplog: pytest.LogCaptureFixture, requeued: int, lost: int
) -> None:
    losses.reaped(Reaped(requeued, lost, expired=0, now_ms=1))
    [(level, text)] = told(caplog)
    assert level == "WARNING"
    assert f"wait again: {requeued}; answered" in text
    assert text.endswith(f": {lost}")


def test_what_a_crashed_engine_held_is_told_by_the_one_in_its_place(
    losses: LossLog, caplog: pytest.LogCaptureFixture
) -> None:
    losses.joined(4)
    [(level, text)] = told(caplog)
    assert (level, text.endswith("wait again: 4")) == ("WARNING", True)


def test_dropped_jobs_of_claims_and_of_a_reap_are_told_together_and_once(
    losses: LossLog, caplog: pytest.LogCaptureFixture
) -> None:
    for expired in (2, 3):
        losses.claimed(Claim((), expired, 1))
    losses.reaped(Reaped(requeued=0, lost=0, expired=4, now_ms=1))
    [(level, text)] = told(caplog)
    assert (level, text.rpartition(" ")[2]) == ("INFO", "9")
    losses.reaped(Reaped(requeued=0, lost=0, expired=0, now_ms=2))
    assert told(caplog) == []


def test_an_engines_loop_tells_what_it_finds_lost(
    service_redis_url: str,
    pool: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Losing(WorkerGate):
        def join(self) -> int:
            super().join()
            return 5

        def claim(self, *arguments: Any, **options: Any) -> Claim:
            loop.stop()
            return replace(super().claim(*arguments, **options), expired=3)

        def reap(self) -> Reaped:
            loop._stopping.set()
            return Reaped(requeued=1, lost=2, expired=4, now_ms=1)

    monkeypatch.setattr("service.engines.engine.RENEW_SECONDS", 0.001)
    caplog.set_level(logging.INFO, "fairslate.engine")
    worker = Losing(service_redis_url, pool, GateSettings(), "worker")
    loop = EngineLoop(
        JointEngine(ScriptedEngine(only_candidate)), worker, token_budget=4096, max_batch_jobs=8
    )
    loop.run()
    loop._stopping.clear()
    loop.keep()
    text = caplog.text
    assert "wait again: 5" in text
    assert "wait again: 1;" in text
    assert "the answer: 7" in text
