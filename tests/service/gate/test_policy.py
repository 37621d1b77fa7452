"""The pure decisions: refills, order, routing, shares, bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.gate import policy
from service.gate.job import LevelStanding
from service.gate.settings import ATTRIBUTIONS, GateSettings

deficits = st.integers(-20_000, 300)
weights = st.integers(1, 5)
quanta = st.integers(1, 400)
workers = st.sampled_from(["w-0", "w-1", "w-2"])


def refill_once(deficit: int, amount: int) -> int:
    """CheckRefill as the paper prints it: one quantum at a time."""
    return deficit + amount if deficit <= 0 else deficit


def refill_part(deficit: int, amount: int, most: int) -> int:
    """One of several refills that make a quantum."""
    return deficit + amount if deficit + amount <= most else deficit


@given(st.integers(0, 40), st.integers(0, 50))
def test_matched_blocks_counts_the_held_front_of_the_chain(blocks: int, held: int) -> None:
    chain = [f"block-{index}" for index in range(blocks)]
    assert policy.matched_blocks(chain, {*chain[:held], "other"}) == min(held, blocks)


@given(deficits, weights, quanta)
def test_refills_owed_are_those_of_the_papers_loop(deficit: int, weight: int, quantum: int) -> None:
    rounds, counter = 0, deficit
    while counter <= 0:
        rounds, counter = rounds + 1, refill_once(counter, weight * quantum)
    assert policy.refills_owed(deficit, weight, quantum) == rounds


@given(deficits, weights, quanta, st.integers(0, 30))
def test_a_jump_over_rounds_equals_the_papers_repeated_refills(
    deficit: int, weight: int, quantum: int, rounds: int
) -> None:
    expected = deficit
    for _ in range(rounds):
        expected = refill_once(expected, weight * quantum)
    assert policy.refilled(deficit, weight, quantum, quantum, rounds) == expected


@given(deficits, weights, st.integers(1, 40), st.integers(1, 10), st.integers(0, 60))
def test_small_refills_fill_up_to_one_quantum(
    deficit: int, weight: int, refill: int, parts: int, rounds: int
) -> None:
    quantum, expected = refill * parts, deficit
    for _ in range(rounds):
        expected = refill_part(expected, weight * refill, weight * quantum)
    assert policy.refilled(deficit, weight, refill, quantum, rounds) == expected


def test_heat_is_the_match_and_then_who_waits_each_up_to_its_limit() -> None:
    assert policy.heat(0, 1) == 0
    assert policy.heat(0, 2) == 1
    assert policy.heat(1, 1) > policy.heat(0, policy.MOST_WAITING + 1) > policy.heat(0, 31)
    assert policy.heat(9, 33) == policy.heat(9, 32)
    assert policy.heat(5_000, 99) == policy.heat(4_095, 32) == 2**17 - 1  # beside a 36-bit arrival


def test_the_earliest_due_goes_after_so_many_picks_by_prefix() -> None:
    streaks = [streak for streak in range(5) if policy.prefers_due(streak, overtakes=3)]
    assert streaks == [3, 4]
    assert policy.prefers_due(0, overtakes=0)


@pytest.mark.parametrize(
    ("waited", "uncached", "other_waited", "other_uncached", "sooner"),
    [
        (100, 10, 100, 20, True),  # the shorter job of two that waited as long
        (100, 20, 100, 10, False),
        (300, 20, 100, 10, True),  # three times the wait outweighs twice the length
        (200, 20, 100, 10, False),  # a tie is left to the other
        (150, 0, 100, 1, True),  # nothing to compute counts as one token
        (50, 0, 100, 1, False),
        (100, 1, 50, 0, True),
    ],
)
def test_the_highest_response_ratio_goes_next(
    waited: int, uncached: int, other_waited: int, other_uncached: int, sooner: bool
) -> None:
    answer = policy.responds_sooner(waited, uncached, other_waited, other_uncached)
    assert answer is sooner


def routed(
    matches: dict[str, int], credits: dict[str, int], loads: dict[str, int]
) -> tuple[str, dict[str, int]]:
    return policy.route(matches, credits, loads, 30, 100)


def test_a_job_goes_to_the_longest_match_however_loaded() -> None:
    choice, after = routed({"a": 1, "b": 4}, {"a": 50, "b": 50}, {"a": 0, "b": 900})
    assert choice == "b"
    assert after == {"a": 50, "b": 20}


def test_equal_matches_go_to_the_least_loaded_and_then_by_name() -> None:
    credits = {"a": 50, "b": 50, "c": 50}
    matches = {"c": 2, "b": 2, "a": 2}
    assert routed(matches, credits, {"a": 9, "b": 5, "c": 7})[0] == "b"
    assert routed(matches, credits, {"a": 5, "b": 5, "c": 7})[0] == "a"


def test_a_tenant_without_credit_at_the_warm_worker_goes_to_the_least_loaded_other() -> None:
    credits, loads = {"a": 0, "b": 10, "c": 10}, {"a": 0, "b": 3, "c": 2}
    choice, after = routed({"a": 4, "b": 1, "c": 0}, credits, loads)
    assert choice == "c"
    assert after == {"a": 0, "b": 10, "c": -20}


def test_a_tenant_without_credit_anywhere_is_refilled_until_one_worker_has_some() -> None:
    choice, after = routed({"a": 4, "b": 0}, {"a": -350, "b": -120}, {"a": 0, "b": 0})
    assert choice == "b"
    assert after == {"a": -150, "b": 50}


@given(
    st.dictionaries(
        workers,
        st.tuples(st.integers(0, 5), st.integers(-5_000, 100), st.integers(0, 900)),
        min_size=1,
    ),
    st.integers(0, 3_000),
)
def test_routing_charges_one_worker_in_credit_and_grants_no_more_than_a_quantum(
    rows: dict[str, tuple[int, int, int]], tokens: int
) -> None:
    matches, credits, loads = ({name: row[at] for name, row in rows.items()} for at in range(3))
    choice, after = policy.route(matches, credits, loads, tokens, 100)
    granted = {name: after[name] - credits[name] + tokens * (name == choice) for name in rows}
    assert len({*granted.values()}) == 1
    assert granted[choice] % 100 == 0
    assert after[choice] + tokens > 0
    assert max(after.values()) <= 100


@given(
    st.sampled_from(ATTRIBUTIONS),
    st.integers(1, 5_000),
    st.integers(0, 5_000),
    st.lists(st.sampled_from("bcdef"), unique=True),
)
def test_shares_sum_to_the_cost_and_everybody_named_pays(
    attribution: str, cost: int, context_cost: int, sharers: list[str]
) -> None:
    context_cost = min(context_cost, cost - 1)
    rows = policy.shares(attribution, cost, context_cost, "a", sharers)
    names = [payer for payer, _part in rows]
    assert sum(part for _payer, part in rows) == cost
    assert min(part for _payer, part in rows) >= 1
    assert names[0] == "a"
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("attribution", "expected"),
    [
        ("first", [("a", 100)]),
        ("split", [("a", 50), ("b", 25), ("c", 25)]),
        ("platform", [("a", 25), ("", 75)]),
    ],
)
def test_the_attribution_says_who_pays_for_the_uncached_context(
    attribution: str, expected: list[tuple[str, int]]
) -> None:
    assert policy.shares(attribution, 100, 75, "a", ["b", "c"]) == expected


def test_the_platform_leaves_at_least_one_to_the_payer() -> None:
    assert policy.shares("platform", 10, 10, "a", []) == [("a", 1), ("", 9)]
    assert policy.shares("platform", 1, 0, "a", []) == [("a", 1)]


@pytest.mark.parametrize(
    ("excess", "rate", "expected"),
    [
        (500, 0, 1_234),  # nothing is known yet
        (500, 1_000, 500),
        (501, 2_000, 251),  # rounded up
        (1, 1_000, 100),
        (10**9, 1, 60_000),
    ],
)
def test_the_retry_after_is_what_the_drain_rate_says(excess: int, rate: int, expected: int) -> None:
    assert policy.retry_after_ms(excess, rate, unknown_ms=1_234) == expected


@pytest.mark.parametrize(
    ("answer", "pool_tokens", "tenant_tokens", "wait_ms"),
    [
        ("known", 900, 300, 0),
        ("pool_full", 400, 300, 1_000),  # the job itself has to find room
        ("pool_full", 1_100, 300, 2_000),
        ("tenant_full", 400, 200, 2_000),  # half of what drains is the tenant's
        ("tenant_full", 400, 400, 2_000),
        ("tenant_busy", 0, 0, 1_000),
    ],
)
def test_the_refused_wait_until_what_is_above_their_cap_has_drained(
    answer: str, pool_tokens: int, tenant_tokens: int, wait_ms: int
) -> None:
    limits = GateSettings(max_pool_tokens=1_000, max_tenant_tokens=300)
    queued = pool_tokens, tenant_tokens
    assert policy.refusal_wait_ms(answer, 100, *queued, 100, limits) == wait_ms


def test_the_gap_bound_is_that_of_the_paper_for_equal_weights_and_settled_jobs() -> None:
    assert policy.gap_bound(quantum=100, job_cost=350) == 2 * (350 + 100)


def test_the_gap_bound_divides_overdrafts_by_weight_and_adds_what_is_in_flight() -> None:
    bound = policy.gap_bound(100, 300, weights=(1, 3), in_flight=(50, 600))
    assert bound == 200 + (300 + 50) / 1 + (300 + 600) / 3


def standing(rounds: int, weight: int, rivals: int, rival_weight: int) -> LevelStanding:
    return LevelStanding("node", 0, weight, rounds, rivals, rival_weight)


def test_the_wait_bound_counts_the_picks_before_a_job_nobody_holds_back() -> None:
    assert policy.wait_bound([], 2, quantum=100, refill=100, overtakes=3, job_cost=50) == 600
    alone = [standing(rounds=7, weight=1, rivals=0, rival_weight=0)]
    assert policy.wait_bound(alone, 2, 100, 50, 3, 50) == 600


def test_the_wait_bound_adds_what_rivals_spend_in_every_spell_at_every_level() -> None:
    one = standing(rounds=2, weight=1, rivals=3, rival_weight=5)
    other = standing(rounds=0, weight=2, rivals=1, rival_weight=1)
    below = 250 + 2 * (100 + 50)  # which the level above serves as well
    expected = below + (2 + 6) * (5 * 100 + 3 * 50)
    assert policy.wait_bound([one, other], 0, 100, 100, 4, 50) == expected


def test_rivals_spend_what_they_saved_once_and_a_refill_in_every_spell() -> None:
    one = standing(rounds=2, weight=1, rivals=3, rival_weight=5)
    expected = 250 + (2 + 13) * (5 * 20 + 3 * 50) + 5 * (100 - 20)
    assert policy.wait_bound([one], 0, 100, 20, 4, 50) == expected


@pytest.mark.parametrize(
    ("pool", "tenant", "parts", "full"),
    [
        ((8, 80), (8, 80), 1, False),
        ((9, 80), (9, 80), 1, True),
        ((8, 81), (1, 20), 4, False),
        ((8, 81), (1, 21), 4, True),
        ((10, 100), (2, 20), 4, False),
        ((11, 20), (1, 1), 4, True),
        ((10, 101), (1, 1), 4, True),
    ],
)
def test_a_small_tenant_may_go_a_quarter_above_the_pools_limits(
    pool: tuple[int, int], tenant: tuple[int, int], parts: int, full: bool
) -> None:
    assert policy.pool_is_full(pool, tenant, (8, 80), parts) is full
