"""Leases that end, jobs that are stolen, adopted, taken back or too late."""

from __future__ import annotations

from typing import Any

import pytest

from service.gate.job import Claim, Outcome, Reply, Settlement
from service.gate.moves import EXPIRED_PER_CLAIM, EXPIRED_PER_REAP
from service.gate.pool import ADOPTED_PER_CLAIM, ADOPTED_PER_REAP, Pool
from service.gate.settings import GateSettings
from tests.service.gate.jobs import build_job, chain

SMALL: dict[str, Any] = {"quantum": 100, "quantum_parts": 1, "lease_ms": 50, "worker_idle_ms": 900}


def pool_of(*workers: str, **changes: Any) -> Pool:
    pool = Pool(GateSettings(**SMALL | changes))
    for worker in workers:
        pool.join(worker, 1_000)
    return pool


def submit(pool: Pool, *names: str, worker: str | None = None, **cells: Any) -> None:
    for name in names:
        assert pool.submit(build_job(name, **cells), 1_000, worker).answer == "queued"


def names(claim: Claim) -> list[str]:
    return [claimed.job_id for claimed in claim.jobs]


def waiting(pool: Pool, queue: str) -> list[str]:
    return [entry.job.job_id for entry in pool.queues.by_deadline(queue)]


def test_an_ended_lease_gives_the_job_its_place_and_its_tenant_the_charge_back() -> None:
    pool = pool_of("w")
    submit(pool, "first", "second")
    pool.claim("w", 0, 1, 1_000)
    owed = pool.nodes["tenant"].deficit
    assert pool.reap(1_050).requeued == 1
    assert pool.nodes["tenant"].deficit == owed + 42
    [again] = pool.claim("w", 0, 1, 1_060).jobs
    assert (again.job_id, again.queue_ms) == ("first", 60)


def test_a_job_is_delivered_so_often_and_no_more() -> None:
    pool = pool_of("w", max_attempts=3)
    submit(pool, "poison")
    requeued = []
    for _ in range(3):
        pool.claim("w", 0, 1, 1_000)
        requeued.append(pool.leave("w", 1_000))
    assert requeued == [1, 1, 0]
    assert pool.replies == [Reply("poison", Outcome.WORKER_LOST, b"")]
    assert not pool.entries


def test_a_heartbeat_tells_the_requeued_from_the_lost_and_the_cancelled() -> None:
    pool = pool_of("w", max_attempts=1)
    submit(pool, "lost", "cancelled")
    pool.claim("w", 1_000, 2, 1_000)
    pool.cancel("cancelled", 1_000)
    reaped = pool.reap(1_050)
    assert (reaped.requeued, reaped.lost, reaped.expired) == (0, 1, 0)
    assert not pool.entries


def test_a_worker_unseen_for_long_is_forgotten_with_its_cache() -> None:
    pool = pool_of("silent", "alive", lease_ms=10**6)
    submit(pool, "job", worker="silent")
    pool.claim("silent", 0, 1, 1_000, chain("ab"))
    pool.renew("alive", [], 1_500)
    assert pool.reap(1_899).requeued == 0
    assert pool.reap(1_900).requeued == 1
    assert set(pool.fleet.workers) == {"alive"}
    assert set(pool.fleet.belief.held) <= {"alive"}
    assert waiting(pool, "alive") == ["job"]


def test_overdue_jobs_are_answered_by_claim_and_by_reap() -> None:
    pool = pool_of("w")
    submit(pool, "soon", deadline_ms=5)
    submit(pool, "later", deadline_ms=10)
    submit(pool, "in time")
    claim = pool.claim("w", 0, 0, 1_005)
    assert claim.expired == 1
    assert pool.reap(1_010).expired == 1
    assert pool.replies == [Reply(name, Outcome.DEADLINE, b"") for name in ("soon", "later")]
    assert pool.nodes["tenant"].service == 0
    assert waiting(pool, "w") == ["in time"]


def test_no_call_answers_more_than_so_many_overdue_jobs_and_none_is_claimed() -> None:
    pool = pool_of("w", "other", max_tenant_jobs=4 * EXPIRED_PER_REAP)
    for worker in ("w", "other"):
        late = [f"{worker}-{number}" for number in range(EXPIRED_PER_REAP)]
        submit(pool, *late, deadline_ms=5, worker=worker)
    submit(pool, "in time", worker="w")
    assert pool.reap(1_005).expired == EXPIRED_PER_REAP
    for _ in range(EXPIRED_PER_REAP // EXPIRED_PER_CLAIM - 1):
        claim = pool.claim("w", 10**6, 99, 1_006)
        assert (claim.expired, names(claim)) == (EXPIRED_PER_CLAIM, [])
    claim = pool.claim("w", 10**6, 99, 1_006)
    assert (claim.expired, names(claim)) == (EXPIRED_PER_CLAIM, ["in time"])


def test_a_worker_without_work_steals_the_earliest_due_of_the_longest_busy_queue() -> None:
    pool = pool_of("busy", "busier", "thief")
    for worker in ("busy", "busier"):
        submit(pool, f"{worker}-leased", worker=worker)
        pool.claim(worker, 0, 1, 1_000)
        submit(pool, f"{worker}-late", worker=worker)
        submit(pool, f"{worker}-due", worker=worker, deadline_ms=900)
    submit(pool, "busier-more", worker="busier")
    assert names(pool.claim("thief", 0, 1, 1_000)) == ["busier-due"]


def test_nothing_is_stolen_from_a_worker_that_could_serve_it_right_now() -> None:
    pool = pool_of("idle", "thief")
    submit(pool, "job", worker="idle")
    assert names(pool.claim("thief", 0, 1, 1_000)) == []
    assert names(pool.claim("idle", 0, 1, 1_000)) == ["job"]


def test_an_idle_workers_jobs_are_stolen_if_they_hold_back_what_waits_elsewhere() -> None:
    pool = pool_of("idle", "busy", "thief")
    submit(pool, "leased", worker="busy", tenant="debtor", candidate_tokens=500)
    pool.claim("busy", 0, 1, 1_000)
    submit(pool, "creditors", worker="idle", tenant="creditor")
    submit(pool, "debtors", worker="busy", tenant="debtor")
    assert pool.nodes["debtor"].deficit < pool.nodes["creditor"].deficit == 0
    assert names(pool.claim("thief", 0, 1, 1_000)) == ["creditors"]


def test_a_worker_serves_its_own_queue_before_it_steals() -> None:
    pool = pool_of("busy", "thief")
    submit(pool, "leased", worker="busy")
    pool.claim("busy", 0, 1, 1_000)
    submit(pool, "foreign", worker="busy", deadline_ms=500)
    submit(pool, "own", worker="thief")
    assert names(pool.claim("thief", 1_000, 8, 1_000)) == ["own", "foreign"]


@pytest.mark.parametrize(("call", "moved"), [("claim", ADOPTED_PER_CLAIM), ("reap", 256)])
def test_queues_without_a_worker_are_adopted_in_chunks(call: str, moved: int) -> None:
    assert ADOPTED_PER_REAP == 256
    pool = pool_of()
    submit(pool, *(f"job-{number:03}" for number in range(moved + 4)))
    pool.join("one", 1_000)
    if call == "claim":
        pool.claim("one", 0, 0, 1_000)
    else:
        pool.reap(1_000)
    assert len(waiting(pool, "one")) == moved
    assert waiting(pool, "") == [f"job-{number:03}" for number in range(moved, moved + 4)]


def test_the_queue_of_a_worker_that_left_is_shared_among_those_that_live() -> None:
    pool = pool_of("gone", "one", "two", worker_quantum=1)
    submit(pool, *(f"job-{number}" for number in range(6)), worker="gone")
    pool.leave("gone", 1_000)
    pool.reap(1_000)
    assert pool.queues.names() == ["one", "two"]
    assert pool.fleet.loads["gone"] == 0
    assert pool.nodes[""].jobs == 6


def test_orphans_wait_for_the_first_worker() -> None:
    pool = pool_of("last")
    submit(pool, "job")
    pool.leave("last", 1_000)
    pool.reap(1_000)
    assert pool.nodes[""].jobs == 1
    assert names(pool.claim("first", 0, 1, 1_000)) == ["job"]


def test_jobs_in_an_answer_that_never_arrived_are_handed_out_again() -> None:
    pool = pool_of("w", max_attempts=1)
    submit(pool, "job")
    [lost] = pool.claim("w", 0, 1, 1_000, acknowledged=0).jobs
    [again] = pool.claim("w", 0, 1, 1_001, acknowledged=0).jobs
    assert again.epoch > lost.epoch
    assert pool.nodes["tenant"].service == again.charged == 42
    assert pool.settle("w", [Settlement("job", lost.epoch, 1, b"")], 1_001) == [False]
    assert pool.claim("w", 0, 1, 1_002, acknowledged=again.epoch).jobs == ()
    assert pool.settle("w", [Settlement("job", again.epoch, 1, b"")], 1_002) == [True]


def test_only_the_workers_own_unheard_leases_are_taken_back() -> None:
    pool = pool_of("w", "other")
    submit(pool, "other's", worker="other")
    submit(pool, "heard", "unheard", worker="w")
    pool.claim("other", 0, 1, 1_000, acknowledged=0)
    [heard] = pool.claim("w", 0, 1, 1_000, acknowledged=0).jobs
    pool.claim("w", 0, 1, 1_000, acknowledged=heard.epoch)
    pool.claim("w", 0, 0, 1_000, acknowledged=heard.epoch)
    leased = {name for name, entry in pool.entries.items() if entry.epoch}
    assert leased == {"other's", "heard"}


def test_a_caller_that_acknowledges_nothing_keeps_its_leases() -> None:
    pool = pool_of("w")
    submit(pool, "job")
    pool.claim("w", 0, 1, 1_000)
    pool.claim("w", 0, 0, 1_000)
    assert pool.entries["job"].epoch


@pytest.mark.parametrize(
    ("attribution", "paid"),
    [
        ("first", {"a": 42, "b": 0, "c": 10}),
        ("split", {"a": 26, "b": 16, "c": 10}),
        ("platform", {"a": 10, "b": 0, "c": 10}),
    ],
)
def test_the_attribution_says_who_pays_among_those_that_wait(
    attribution: str, paid: dict[str, int]
) -> None:
    pool = pool_of("w", attribution=attribution)
    submit(pool, "a", tenant="a")
    submit(pool, "b", tenant="b")
    for name in "ab":
        pool.nodes[name].deficit = 1  # in credit, as all who share a context
    pool.claim("w", 0, 1, 1_000)
    submit(pool, "c", tenant="c", context="")
    pool.cancel("b", 1_000)
    pool.claim("w", 0, 1, 1_000)
    assert {name: pool.nodes[name].service for name in "abc"} == paid
    assert pool.ledger.platform == (32 if attribution == "platform" else 0)
    pool.leave("w", 1_000)
    assert {name: pool.nodes[name].service for name in "abc"} == dict.fromkeys("abc", 0)
    assert pool.ledger.platform == 0


def test_a_silent_workers_jobs_go_to_one_that_speaks_and_come_back_when_it_does() -> None:
    pool = pool_of("dead", "alive", worker_silent_ms=300)
    pool.claim("dead", 0, 0, 1_000, chain("ab"))
    pool.submit(build_job("before"), 1_000)
    assert waiting(pool, "dead") == ["before"]
    pool.renew("alive", [], 1_299)
    assert names(pool.claim("alive", 0, 1, 1_299)) == []
    assert names(pool.claim("alive", 0, 1, 1_300)) == ["before"]
    pool.submit(build_job("after"), 1_300)
    assert waiting(pool, "alive") == ["after"]
    pool.renew("dead", [], 1_301)
    pool.submit(build_job("again"), 1_301)
    assert waiting(pool, "dead") == ["again"]


def test_a_silent_worker_keeps_its_leases_and_its_jobs_where_nobody_speaks() -> None:
    pool = pool_of("one", "two", worker_silent_ms=300, lease_ms=800)
    pool.claim("two", 0, 0, 1_000, chain("ab"))
    pool.submit(build_job("leased"), 1_000)
    [leased] = pool.claim("two", 0, 1, 1_000).jobs
    pool.submit(build_job("queued"), 1_400)
    assert waiting(pool, "two") == ["queued"]
    assert pool.settle("two", [Settlement("leased", leased.epoch, 1, b"")], 1_500) == [True]
