"""Batches are scored in order, each by itself, and none that nobody waits for any more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import ClassVar

from models.engines.base import CacheEvents, JobScores, ScoreJob
from service.engines.batch import Batch, Scored
from service.engines.joint_engine import JointEngine
from service.engines.scoring_line import ScoringLine
from service.gate.job import Claimed

FOREVER = float("inf")


class ScriptedEngine:
    """Does as a function says with each batch; its cache holds the last batch's contexts."""

    block_size = 16
    description: ClassVar = {"dtype": "scripted"}

    def __init__(self, before: Callable[[int], None] = lambda _: None) -> None:
        self._before = before
        self.batches: list[list[int]] = []
        self.busy = threading.Lock()

    def score(self, jobs: Sequence[ScoreJob]) -> list[JobScores]:
        assert self.busy.acquire(blocking=False), "an engine has one caller at a time"
        try:
            numbers = [job.context_ids[0] for job in jobs]
            self.batches.append(numbers)
            self._before(numbers[0])
            return [JobScores((float(number),), 1, 0, 0) for number in numbers]
        finally:
            self.busy.release()

    def check(self, job: ScoreJob) -> None: ...

    def drain_cache_events(self) -> CacheEvents:
        return CacheEvents((str(self.batches[-1][0]),)) if self.batches else CacheEvents()

    def drain_label_mass(self) -> tuple[float, ...]:
        return ()


def batch(*numbers: int, due: Sequence[float] = ()) -> Batch:
    claimed = tuple(Claimed(str(one), 1, b"", "here", 10, 0, 0) for one in numbers)
    jobs = tuple(ScoreJob((one,), (str(one),), ()) for one in numbers)
    return Batch(claimed, jobs, tuple(due) or (FOREVER,) * len(numbers), (), 0.0)


def all_of(line: ScoringLine) -> list[Scored]:
    """Waits for everything in line."""
    done: list[Scored] = []
    while line:
        line.wait()
        done += line.take()
    return done


def test_batches_come_back_in_order_with_their_own_events() -> None:
    with ScoringLine(JointEngine(ScriptedEngine())) as line:
        line.add(batch(1, 2))
        line.add(batch(3))
        first, second = all_of(line)
    assert isinstance(first.answers, list)
    assert [one.raw_logits for one in first.answers if one] == [(1.0,), (2.0,)]
    assert (first.events.inserted, second.events.inserted) == (("1",), ("3",))
    assert first.ended <= second.began


def test_the_next_batch_begins_while_nobody_looks() -> None:
    began = threading.Event()

    def tell(number: int) -> None:
        if number == 2:
            began.set()

    with ScoringLine(JointEngine(ScriptedEngine(tell))) as line:
        line.add(batch(1))
        line.add(batch(2))
        assert began.wait(5.0)
        assert len(all_of(line)) == 2


def test_a_batch_that_fails_takes_no_other_with_it() -> None:
    def explode(number: int) -> None:
        if number == 1:
            raise RuntimeError("out of memory")

    with ScoringLine(JointEngine(ScriptedEngine(explode))) as line:
        line.add(batch(1, 2))
        line.add(batch(3))
        first, second = all_of(line)
    assert isinstance(first.answers, RuntimeError)
    assert isinstance(second.answers, list)


def test_a_job_whose_time_is_up_when_its_turn_comes_is_not_scored() -> None:
    now = [0.0]

    def pass_time(number: int) -> None:
        now[0] += 10.0 * (number == 1)

    engine = ScriptedEngine(pass_time)
    with ScoringLine(JointEngine(engine), lambda: now[0]) as line:
        line.add(batch(1))
        line.add(batch(2, 3, 4, due=[FOREVER, 9.0, 11.0]))
        line.add(batch(5, due=[10.0]))
        _, second, third = all_of(line)
    assert engine.batches == [[1], [2, 4]]
    assert isinstance(second.answers, list)
    assert [one and one.raw_logits for one in second.answers] == [(2.0,), None, (4.0,)]
    assert third.answers == [None]


def test_what_stands_in_line_is_scored_before_the_line_ends() -> None:
    engine = ScriptedEngine()
    with ScoringLine(JointEngine(engine)) as line:
        line.add(batch(1))
        line.add(batch(2))
    assert engine.batches == [[1], [2]]
    assert len(line.take()) == 2
