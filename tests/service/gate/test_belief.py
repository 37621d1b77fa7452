"""What the pool believes each cache holds, and what one batch adds to it."""

from __future__ import annotations

from random import Random

import pytest

from service.gate.belief import Batch, Belief
from tests.service.gate.jobs import build_job, chain, random_job


def test_belief_follows_a_workers_events_and_nobody_elses() -> None:
    belief, job = Belief(), build_job("job", context="abcd")
    belief.hear("one", chain("abcd"), ["abcd____"])
    belief.hear("two", chain("a"), [])
    assert [belief.matched(name, job) for name in ("one", "two", "stranger")] == [3, 1, 0]
    belief.hear("one", [], ["abc_____"])
    assert belief.matched("one", job) == 2
    belief.forget("one")
    assert belief.matched("one", job) == 0


def test_a_context_on_its_way_to_a_worker_counts_as_held_there() -> None:
    belief, job = Belief(), build_job("job", context="abc")
    belief.expect("one", job.context_id, 1)
    belief.expect("one", job.context_id, 1)
    assert (belief.expected("one", job), belief.expected("two", job)) == (3, 0)
    belief.expect("one", job.context_id, -1)
    assert belief.expected("one", job) == 3
    belief.expect("one", job.context_id, -1)
    assert belief.expected("one", job) == 0
    assert belief.matched("one", job) == 0


def test_nothing_more_is_unexpected_than_was_expected() -> None:
    with pytest.raises(AssertionError):
        Belief().expect("one", "context", -1)


@pytest.mark.parametrize(
    ("blocks", "short_by", "tokens"), [(0, 5, 0), (1, 5, 16), (2, 5, 27), (2, 0, 32)]
)
def test_the_last_block_may_be_short(blocks: int, short_by: int, tokens: int) -> None:
    job = build_job("job", context="ab", short_by=short_by)
    assert Batch(set(job.context_hashes[:blocks])).matched_tokens(job) == tokens


def test_what_a_batch_picked_counts_as_held_for_its_other_jobs_only() -> None:
    held = set(chain("a"))
    batch = Batch(held)
    same, longer, other = (build_job(name, context=name) for name in ("abc", "abcd", "xyz"))
    assert [batch.matched(job) for job in (same, longer, other)] == [1, 1, 0]
    batch.assume(same)
    assert [batch.matched(job) for job in (same, longer, other)] == [3, 3, 0]
    assert held == set(chain("a"))


@pytest.mark.parametrize("seed", range(20))
def test_a_batch_agrees_with_a_cache_that_holds_what_was_picked(seed: int) -> None:
    random = Random(seed)
    jobs = [random_job(random, f"job-{number}", ("tenant",)) for number in range(12)]
    held = set(jobs[0].context_hashes)
    batch, cache = Batch(set(held)), set(held)
    for job in jobs[1:]:
        assert [batch.matched(one) for one in jobs] == [Batch(cache).matched(one) for one in jobs]
        batch.assume(job)
        cache |= set(job.context_hashes)
