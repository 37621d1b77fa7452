"""One engine for slates and reasons: the order of answers, both caches, and failures."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from models.engines.base import CacheEvents, JobScores, ReasonJob, ScoreJob, Written
from service.engines.joint_engine import JointEngine, NoReasonerError
from tests.models.reasons.test_lattice import lattice_of
from tests.service.engines.scripted_engine import ScriptedEngine, only_candidate

REASON = ReasonJob((1, 2), ("0" * 32,), (3,), lattice_of({(11,)}))


def score_job(number: int) -> ScoreJob:
    return ScoreJob((1, 2, 3), ("0" * 32,), ((number,),))


class ScriptedWriter:
    """Writes the candidate's tokens back."""

    def check(self, job: ReasonJob) -> None:
        if job.candidate == (13,):
            raise ValueError("thirteen")

    def write(self, jobs: Sequence[ReasonJob]) -> list[Written]:
        return [Written(job.candidate, len(job.context_ids), 0, 1) for job in jobs]

    def drain_cache_events(self) -> CacheEvents:
        return CacheEvents(("written",), ("gone",))


class CachingEngine(ScriptedEngine):
    def drain_cache_events(self) -> CacheEvents:
        return CacheEvents(("scored",), ())


def test_answers_stand_in_the_order_of_the_jobs() -> None:
    engine = JointEngine(ScriptedEngine(only_candidate), ScriptedWriter())
    answers = engine.score([score_job(1), REASON, score_job(2), REASON])
    kinds = [type(answer) for answer in answers]
    assert kinds == [JobScores, Written, JobScores, Written]
    assert [a.raw_logits for a in answers if isinstance(a, JobScores)] == [(1.0,), (2.0,)]


def test_a_batch_of_one_kind_asks_nothing_of_the_other() -> None:
    scorer = ScriptedEngine(only_candidate)
    engine = JointEngine(scorer, ScriptedWriter())
    engine.score([REASON])
    assert scorer.batches == []


def test_events_of_both_caches_are_told() -> None:
    engine = JointEngine(CachingEngine(only_candidate), ScriptedWriter())
    assert engine.drain_cache_events() == CacheEvents(("scored", "written"), ("gone",))
    assert JointEngine(CachingEngine(only_candidate)).drain_cache_events().evicted == ()


def test_each_kind_is_checked_by_its_own() -> None:
    engine = JointEngine(ScriptedEngine(only_candidate), ScriptedWriter())
    engine.check(REASON)
    with pytest.raises(ValueError, match="thirteen"):
        engine.check(ReasonJob((1,), (), (13,), REASON.answers))


def test_without_a_reasoner_a_reason_is_refused() -> None:
    with pytest.raises(NoReasonerError, match="FAIRSLATE_REASONER"):
        JointEngine(ScriptedEngine(only_candidate)).check(REASON)
