"""The in-memory pool's verbs, one by one; histories of them are in test_invariants.py."""

from __future__ import annotations

import pytest

from service.gate.job import Claimed, Explanation, LevelStanding, Outcome, Reply
from tests.service.gate.jobs import build_job, chain
from tests.service.gate.pools import COST, names, pool_of, scored


def test_a_job_walks_from_submit_to_its_reply() -> None:
    pool = pool_of("w")
    assert pool.submit(build_job("job", "acme/alice"), 1_000).answer == "queued"
    [claimed] = pool.claim("w", 100, 8, 1_007).jobs
    assert claimed == Claimed("job", 1_007_000, b"job", "api", COST, 0, 7)
    assert pool.nodes["acme"].leased == pool.nodes[""].leased == 1
    assert pool.settle("w", [scored(claimed, 30)], 1_010) == [True]
    assert pool.replies == [Reply("job", Outcome.SCORED, b"result")]
    assert [pool.nodes[name].service for name in ("acme/alice", "acme", "")] == [30] * 3
    assert not pool.entries
    assert pool.nodes[""].leased == 0


@pytest.mark.parametrize(
    ("budget", "most", "strict", "expected"),
    [
        (1_000, 8, False, ["first", "second", "third"]),
        (1_000, 2, False, ["first", "second"]),
        (COST + 20 + 10, 8, False, ["first", "second"]),
        (COST + 20 + 9, 8, False, ["first"]),
        (0, 8, False, ["first"]),
        (COST + 19, 8, True, []),
        (COST + 20, 8, True, ["first"]),
        (1_000, 0, False, []),
    ],
)
def test_a_claim_fills_its_budget_of_extend_and_output_tokens(
    budget: int, most: int, strict: bool, expected: list[str]
) -> None:
    pool = pool_of("w")
    for number, name in enumerate(("first", "second", "third")):
        pool.submit(build_job(name, output_tokens=20 * (number == 0)), 1_000)
    assert names(pool.claim("w", budget, most, 1_000, strict=strict)) == expected


def test_an_output_token_takes_up_as_much_room_as_the_settings_say() -> None:
    for room, expected in ((1, ["first", "second"]), (3, ["first"])):
        pool = pool_of("w", output_room=room)
        for name in ("first", "second"):
            pool.submit(build_job(name, output_tokens=20), 1_000)
        assert names(pool.claim("w", 2 * COST + 60, 8, 1_000)) == expected


def test_the_first_of_a_batch_pays_for_a_common_prefix() -> None:
    pool = pool_of("w")
    for name, context in [("first", "ab"), ("same", "ab"), ("longer", "abc")]:
        pool.submit(build_job(name, name, context), 1_000)
    claim = pool.claim("w", 1_000, 8, 1_000)
    assert [(claimed.job_id, claimed.charged) for claimed in claim.jobs] == [
        ("first", COST),
        ("same", 10),
        ("longer", 16 + 10),
    ]


def test_a_tenant_in_debt_waits_while_another_in_credit_has_work() -> None:
    pool = pool_of("w")
    pool.submit(build_job("large", "debtor", candidate_tokens=500), 1_000)
    pool.submit(build_job("small", "saver", "xy"), 1_000)
    assert names(pool.claim("w", 0, 1, 1_000)) == ["large"]
    pool.submit(build_job("hot", "debtor"), 1_000)
    held = chain("ab")
    assert names(pool.claim("w", 0, 1, 1_000, held)) == ["small"]
    assert names(pool.claim("w", 0, 1, 1_000)) == ["hot"]
    assert pool.nodes["debtor"].deficit == 100 - 532 + 5 * 100 - 10


def test_the_earliest_due_goes_after_so_many_picks_by_prefix_over_several_claims() -> None:
    pool = pool_of("w")
    for number in range(4):
        pool.submit(build_job(f"hot-{number}", candidate_tokens=1), 1_000)
    pool.submit(build_job("due", context="xy", deadline_ms=900), 1_000)
    pool.claim("w", 0, 0, 1_000, chain("ab"))
    order = [name for _ in range(5) for name in names(pool.claim("w", 0, 1, 1_000))]
    assert order == ["hot-0", "hot-1", "due", "hot-2", "hot-3"]


def test_events_of_a_worker_the_pool_forgot_are_not_believed() -> None:
    pool = pool_of("w")
    pool.leave("w", 1_000)
    pool.submit(build_job("job"), 1_000)
    claim = pool.claim("w", 100, 0, 1_000, chain("ab"))
    assert not claim.known
    claim = pool.claim("w", 100, 8, 1_000, ["b_______"])
    assert claim.known
    assert claim.jobs[0].cached_tokens_believed == 0


def test_a_worker_that_left_is_not_believed_when_it_settles() -> None:
    pool = pool_of("w")
    pool.leave("w", 1_000)
    pool.settle("w", [], 1_000, chain("ab"))
    assert "w" not in pool.fleet.belief.held


def test_a_job_settles_once_and_only_at_its_current_epoch() -> None:
    pool = pool_of("w")
    pool.submit(build_job("job"), 1_000)
    [zombie] = pool.claim("w", 100, 1, 1_000).jobs
    assert pool.join("w", 1_000) == 1
    [current] = pool.claim("w", 100, 1, 1_000).jobs
    assert current.epoch > zombie.epoch
    assert pool.renew("w", [zombie, current], 1_000) == [False, True]
    rows = [scored(zombie), scored(current), scored(current)]
    assert pool.settle("w", rows, 1_000) == [False, True, False]
    assert len(pool.replies) == 1


def test_a_renewed_lease_lasts_and_others_end() -> None:
    pool = pool_of("w")
    for name in ("kept", "lost"):
        pool.submit(build_job(name), 1_000)
    kept, _lost = pool.claim("w", 100, 2, 1_000).jobs
    pool.renew("w", [kept], 1_040)
    assert pool.reap(1_049).requeued == 0
    assert pool.reap(1_050).requeued == 1
    assert pool.entries["kept"].epoch
    assert not pool.entries["lost"].epoch


def test_a_waiting_job_is_cancelled_at_once_and_a_leased_one_is_never_queued_again() -> None:
    pool = pool_of("w")
    for name in ("leased", "waiting"):
        pool.submit(build_job(name), 1_000)
    pool.claim("w", 0, 1, 1_000)
    cancelled = [pool.cancel(name, 1_000) for name in ("waiting", "waiting", "leased", "unknown")]
    assert cancelled == [True, False, False, False]
    assert pool.nodes[""].jobs == 0
    assert pool.leave("w", 1_000) == 0
    assert not pool.entries
    assert pool.replies == []
    assert pool.nodes["tenant"].service == 0


def test_a_drained_worker_finishes_what_it_holds_and_gets_no_more() -> None:
    pool = pool_of("w", "other")
    for name in ("leased", "queued"):
        pool.submit(build_job(name), 1_000, worker="w")
    [leased] = pool.claim("w", 0, 1, 1_000).jobs
    pool.drain("w", 1_000)
    pool.submit(build_job("later"), 1_000)
    pool.reap(1_000)
    assert pool.queues.names() == ["other"]
    assert pool.settle("w", [scored(leased)], 1_000) == [True]
    assert names(pool.claim("other", 1_000, 8, 1_000)) == ["queued", "later"]


def test_a_policy_switched_at_run_time_orders_what_waits() -> None:
    pool = pool_of("w")
    pool.submit(build_job("hot", deadline_ms=900), 1_000)
    pool.submit(build_job("due", context="xy", deadline_ms=500), 1_000)
    pool.claim("w", 0, 0, 1_000, chain("ab"))
    with pytest.raises(ValueError, match="random"):
        pool.configure("random", 1_000)
    pool.configure("fcfs", 1_000)
    assert names(pool.claim("w", 1_000, 8, 1_000)) == ["due", "hot"]


def test_a_job_is_explained_while_it_waits_and_while_it_is_leased() -> None:
    pool = pool_of("w", overtakes=3)
    pool.submit(build_job("due", "a", deadline_ms=500), 1_000)
    pool.submit(build_job("job", "b:2", "abc", deadline_ms=900), 1_000)
    pool.claim("w", 0, 0, 1_000, chain("ab"))
    pool.nodes["b"].deficit = -250
    assert pool.explain("job", 1_020) == Explanation(
        state="queued",
        worker="w",
        queue_ms=20,
        deadline_in_ms=880,
        due_before=1,
        matched_blocks=2,
        levels=(LevelStanding("b", -250, 2, 2, 1, 1),),
        queued_cost=2 * (42 + 58) + 2,  # if all of it were output
        largest_cost=58,
        bound=2 * 4 * 58 + (2 + 3) * (100 + 58),
    )
    pool.claim("w", 0, 1, 1_020)
    assert pool.explain("due", 1_030) == Explanation("leased", "w", 30, 470)
    assert pool.explain("nothing", 1_030) == Explanation("unknown")


@pytest.mark.parametrize("gap", [2_001, 30_000, -1, -30_000])
def test_a_pause_and_a_step_of_the_clock_end_no_lease_and_no_deadline(gap: int) -> None:
    pool = pool_of("w")
    pool.submit(build_job("leased"), 1_000)
    pool.submit(build_job("queued", deadline_ms=60), 1_000)
    [leased] = pool.claim("w", 0, 1, 1_000).jobs
    reaped = pool.reap(1_000 + gap)
    assert (reaped.requeued, reaped.expired, reaped.now_ms) == (0, 0, 1_001)
    assert pool.explain("queued", 1_040 + gap).queue_ms == 41
    [queued] = pool.claim("w", 0, 1, 1_040 + gap).jobs
    assert queued.epoch > leased.epoch
    reaped = pool.reap(1_050 + gap)
    assert reaped.requeued == 1


def test_the_longest_silence_that_is_no_pause_counts() -> None:
    pool = pool_of("w")
    pool.submit(build_job("job"), 1_000)
    pool.claim("w", 0, 1, 1_000)
    assert pool.reap(3_000).requeued == 1
