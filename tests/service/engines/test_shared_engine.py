"""Two users of one engine: one pass at a time, and each hears what the cache holds."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from models.engines.base import CacheEvents, JobScores, ScoreJob
from service.engines.joint_engine import JointEngine
from service.engines.shared_engine import SharedEngine
from tests.service.engines.scripted_engine import ScriptedEngine, only_candidate

JOB = ScoreJob((1, 2, 3), ("0" * 32,), ((7,),))


class CachingEngine(ScriptedEngine):
    """Says of its cache what the test wrote down for the next pass."""

    inserted: tuple[str, ...] = ()
    evicted: tuple[str, ...] = ()

    def drain_cache_events(self) -> CacheEvents:
        return CacheEvents(self.inserted, self.evicted)


@pytest.fixture
def engine() -> CachingEngine:
    return CachingEngine(only_candidate)


def score(engine: CachingEngine, shared: SharedEngine, came: str, went: str) -> None:
    engine.inserted, engine.evicted = tuple(came), tuple(went)
    [scores] = shared.views[0].score([JOB])
    assert isinstance(scores, JobScores)
    assert scores.raw_logits == (7.0,)


def test_who_looks_seldom_hears_the_difference_in_order(engine: CachingEngine) -> None:
    shared = SharedEngine(JointEngine(engine), 2)
    busy, idle = shared.views
    score(engine, shared, "abc", "")
    assert busy.drain_cache_events() == CacheEvents(("a", "b", "c"))
    score(engine, shared, "d", "cb")
    assert busy.drain_cache_events() == CacheEvents(("d",), ("c", "b"))
    assert idle.drain_cache_events() == CacheEvents(("a", "d"))
    score(engine, shared, "b", "a")
    score(engine, shared, "a", "b")
    assert busy.drain_cache_events() == idle.drain_cache_events() == CacheEvents()
    assert busy.drain_label_mass() == (0.5,) * 4
    assert idle.drain_label_mass() == ()


def test_a_pass_that_fails_still_tells_what_the_cache_did(engine: CachingEngine) -> None:
    def fail(_: ScoreJob) -> float:
        raise RuntimeError("no")

    broken = CachingEngine(fail)
    broken.inserted = ("a",)
    first, second = SharedEngine(JointEngine(broken), 2).views
    with pytest.raises(RuntimeError, match="no"):
        first.score([JOB])
    assert second.drain_cache_events() == CacheEvents(("a",))


def test_one_pass_runs_at_a_time_and_who_came_first_goes_first() -> None:
    entered, leave, order = threading.Event(), threading.Event(), []

    class Slow(CachingEngine):
        def score(self, jobs: Sequence[ScoreJob]) -> list[JobScores]:
            order.append(jobs[0].candidates[0][0])
            entered.set()
            leave.wait(10.0)
            return super().score(jobs)

    shared = SharedEngine(JointEngine(Slow(only_candidate)), 2)
    jobs = [ScoreJob((1,), ("0" * 32,), ((number,),)) for number in range(3)]
    threads = []
    for number, view in ((0, shared.views[0]), (1, shared.views[1]), (2, shared.views[0])):
        threads.append(threading.Thread(target=view.score, args=([jobs[number]],)))
        threads[-1].start()
        entered.wait(10.0)
        while shared._thread._work_queue.qsize() < number:
            pass
        assert order == [0]
    leave.set()
    for thread in threads:
        thread.join(10.0)
    assert order == [0, 1, 2]
