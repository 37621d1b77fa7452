"""Whom the in-memory pool admits to its queue, and when it tells the others to come back."""

from __future__ import annotations

from typing import Any

import pytest

from service.gate.settings import GateSettings
from tests.service.gate.jobs import build_job
from tests.service.gate.pools import COST, SMALL, pool_of, scored


@pytest.mark.parametrize(
    ("change", "answer", "others"),
    [
        ({"max_pool_jobs": 2}, "pool_full", "pool_full"),
        ({"max_pool_tokens": 3 * COST - 1}, "pool_full", "queued"),
        ({"max_tenant_jobs": 2}, "tenant_full", "queued"),
        ({"max_tenant_tokens": 3 * COST - 1}, "tenant_full", "queued"),
        ({"max_tenant_in_flight": 2}, "tenant_busy", "queued"),
    ],
)
def test_caps_refuse_with_a_retry_after(change: dict[str, int], answer: str, others: str) -> None:
    pool = pool_of("w", **change)
    for user in ("u1", "u2"):
        pool.submit(build_job(user, f"acme/{user}", tenant_level=0), 1_000)
    refusal = pool.submit(build_job("more", "acme/u3", tenant_level=0), 1_000)
    assert (refusal.answer, refusal.retry_after_ms) == (answer, 700)
    assert pool.submit(build_job("other", "other/u"), 1_000).answer == others
    assert "acme/u3" not in pool.nodes


def test_leased_jobs_are_in_flight_but_no_longer_queued() -> None:
    pool = pool_of("w", max_tenant_jobs=1, max_tenant_in_flight=2)
    for number in range(2):
        assert pool.submit(build_job(f"job-{number}"), 1_000).answer == "queued"
        pool.claim("w", 1_000, 1, 1_000)
    assert pool.submit(build_job("third"), 1_000).answer == "tenant_busy"


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"job_id": "first"}, "known"),
        ({"deadline_ms": 0}, "deadline"),
        ({"tenant": "acme"}, "level_conflict"),
        ({"tenant": "acme/alice/u7"}, "level_conflict"),
    ],
)
def test_a_job_that_makes_no_sense_is_refused_though_there_is_room(
    change: dict[str, Any], answer: str
) -> None:
    pool = pool_of("w")
    pool.submit(build_job("first", "acme/alice"), 1_000)
    verdict = pool.submit(build_job(**{"job_id": "job", "tenant": "acme/alice"} | change), 1_000)
    assert (verdict.answer, verdict.retry_after_ms) == (answer, 0)
    assert pool.nodes[""].jobs == 1


def test_the_retry_after_follows_the_drain_rate_and_the_tenants_share_of_the_queue() -> None:
    pool = pool_of("w", max_tenant_jobs=1, max_pool_jobs=2)
    pool.reap(1_000)
    pool.submit(build_job("job"), 1_000)
    [claimed] = pool.claim("w", 100, 1, 1_500).jobs
    pool.settle("w", [scored(claimed)], 1_500)
    pool.reap(2_000)
    assert pool.drain_rate == COST
    pool.submit(build_job("mine", "a"), 2_000)
    assert pool.submit(build_job("more", "a"), 2_000).retry_after_ms == 1_000
    pool.submit(build_job("other", "b"), 2_000)
    assert pool.submit(build_job("third", "c"), 2_000).answer == "pool_full"
    pool.cancel("other", 2_000)
    pool.submit(build_job("longer", "b", "abcd", candidate_tokens=20), 2_000)
    pool.settings = GateSettings(**SMALL | {"max_tenant_jobs": 1})
    assert pool.submit(build_job("more", "a"), 2_000).retry_after_ms == 3_000


def test_the_drain_rate_is_a_moving_average() -> None:
    pool = pool_of("w")
    pool.drain_rate = 400
    pool.submit(build_job("job"), 1_000)
    pool.reap(1_000)
    assert pool.drain_rate == 300


def test_the_drain_rate_outlives_a_time_in_which_nothing_came() -> None:
    pool = pool_of("w")
    pool.drain_rate = 400
    for second in range(1, 9):
        pool.reap(1_000 * second)
    assert pool.drain_rate == 400
    pool.submit(build_job("job", candidate_tokens=768), 9_000)
    [claimed] = pool.claim("w", 0, 1, 9_000).jobs
    pool.settle("w", [scored(claimed)], 9_000)
    pool.reap(9_000)
    assert pool.drain_rate == 500


def test_a_tenants_depth_changes_once_nothing_of_it_stands_at_the_other_one() -> None:
    pool = pool_of("w")
    for number, (name, other) in enumerate([("acme/u1", "acme"), ("acme", "acme/u2")]):
        job = f"job-{number}"
        assert pool.submit(build_job(job, name), 1_000).answer == "queued"
        assert pool.submit(build_job("other", other), 1_000).answer == "level_conflict"
        [claimed] = pool.claim("w", 100, 1, 1_000).jobs
        assert pool.submit(build_job("other", other), 1_000).answer == "level_conflict"
        pool.settle("w", [scored(claimed)], 1_000)
        assert pool.submit(build_job("other", other), 1_000).answer == "queued"
        [claimed] = pool.claim("w", 100, 1, 1_000).jobs
        assert pool.settle("w", [scored(claimed)], 1_000) == [True]


def test_tenants_at_their_caps_do_not_lock_out_one_below_its_equal_part() -> None:
    pool = pool_of("w", max_pool_jobs=8, max_tenant_jobs=4)
    for number in range(4):
        for tenant in ("batch/a", "batch/b"):
            job = build_job(f"{tenant}-{number}", tenant, tenant_level=1)
            assert pool.submit(job, 1_000).answer == "queued"
    quiet = [build_job(f"quiet-{number}", "batch/quiet", tenant_level=1) for number in range(3)]
    assert [pool.submit(job, 1_000).answer for job in quiet] == ["queued", "queued", "pool_full"]
    strangers = build_job("stranger", "batch/stranger", tenant_level=1)
    assert pool.submit(strangers, 1_000).answer == "pool_full"  # a quarter above is the end
    pool.cancel("batch/a-0", 1_000)
    assert pool.submit(build_job("more", "batch/a", tenant_level=1), 1_000).answer == "pool_full"
    assert pool.submit(strangers, 1_000).answer == "queued"
