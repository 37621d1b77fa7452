"""The DLPM decision: order, charges, refills."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.gate import policy
from service.gate.policy import Balance, Candidate, Limits

QUANTUM = 100
balances = st.builds(Balance, deficit=st.integers(-5_000, 400), weight=st.integers(1, 4))


def job(job_id: str, tenant: str, context: str, sequence: int, tokens: int = 10) -> Candidate:
    return Candidate(job_id, tenant, context, sequence, 32, tokens)


def limits(token_budget: int = 1_000, max_jobs: int = 100, overtakes: int = 100) -> Limits:
    return Limits(QUANTUM, token_budget, max_jobs, overtakes)


def order(
    jobs: list[Candidate],
    cached: dict[str, int],
    standing: dict[str, Balance],
    token_budget: int = 1_000,
    overtakes: int = 100,
) -> list[str]:
    picks, _after = policy.dlpm_order(
        jobs, cached, standing, limits(token_budget, overtakes=overtakes), len(jobs)
    )
    return [pick.candidate.job_id for pick in picks]


def refill_once(standing: dict[str, Balance]) -> dict[str, Balance]:
    """CheckRefill as the paper prints it: one quantum at a time."""
    return {
        name: replace(balance, deficit=balance.deficit + balance.weight * QUANTUM)
        if balance.deficit <= 0
        else balance
        for name, balance in standing.items()
    }


@given(st.dictionaries(st.sampled_from("abcdef"), balances, min_size=1), st.data())
def test_one_refill_equals_the_papers_repeated_ones(
    standing: dict[str, Balance], data: st.DataObject
) -> None:
    waiting = data.draw(st.sets(st.sampled_from(sorted(standing)), min_size=1))
    expected = standing
    while not any(expected[name].deficit > 0 for name in waiting):
        expected = refill_once(expected)
    assert policy.refill(standing, waiting, QUANTUM) == expected


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 16))
def test_held_tokens_counts_the_held_prefix(blocks: int, held: int, last: int) -> None:
    chain = [f"block-{index}" for index in range(blocks)]
    context_tokens = max(0, blocks * 16 - 16 + last)
    expected = min(held * 16, context_tokens)
    assert policy.held_tokens(chain, 16, context_tokens, set(chain[:held])) == expected


def test_longest_cached_prefix_goes_first_and_ties_by_arrival() -> None:
    jobs = [job("cold", "a", "x", 1), job("later", "b", "y", 3), job("warm", "a", "y", 2)]
    standing = {"a": Balance(500), "b": Balance(500)}
    assert order(jobs, {"x": 0, "y": 16}, standing) == ["warm", "later", "cold"]


def test_a_cold_job_is_overtaken_so_often_and_no_more() -> None:
    jobs = [job("cold", "a", "x", 1), *(job(f"warm{n}", "b", "y", n) for n in range(2, 7))]
    standing = {"a": Balance(500), "b": Balance(500)}
    for overtakes in range(1, 5):
        picked = order(jobs, {"x": 0, "y": 32}, standing, overtakes=overtakes)
        assert picked.index("cold") == overtakes


def test_an_overtaken_job_of_a_tenant_in_debt_waits_all_the_same() -> None:
    jobs = [job("cold", "debtor", "x", 1), job("warm", "b", "y", 2), job("last", "b", "y", 3)]
    standing = {"debtor": Balance(-500), "b": Balance(500)}
    assert order(jobs, {"x": 0, "y": 32}, standing, overtakes=1) == ["warm", "last", "cold"]


def test_a_tenant_in_debt_is_skipped_while_another_in_credit_waits() -> None:
    jobs = [job("hot", "debtor", "x", 1), job("cold", "creditor", "y", 2)]
    standing = {"debtor": Balance(0), "creditor": Balance(1)}
    assert order(jobs, {"x": 32, "y": 0}, standing) == ["cold", "hot"]


def test_a_shared_context_is_paid_once_per_batch() -> None:
    jobs = [job("first", "a", "x", 1), job("second", "b", "x", 2)]
    standing = {"a": Balance(500), "b": Balance(500)}
    picks, after = policy.dlpm_order(jobs, {"x": 0}, standing, limits(), 2)
    assert [pick.charged for pick in picks] == [42, 10]
    assert after == {"a": Balance(458), "b": Balance(490)}


def test_a_job_of_no_tokens_still_costs_one() -> None:
    assert policy.charge(job("free", "a", "x", 1, tokens=0), cached_tokens=32) == 1


def test_the_first_job_may_exceed_the_budget_and_later_ones_may_not() -> None:
    jobs = [job("huge", "a", "x", 1, tokens=900), job("small", "a", "x", 2)]
    assert order(jobs, {"x": 0}, {"a": Balance(5_000)}, token_budget=5) == ["huge"]


def test_a_smaller_job_passes_one_that_does_not_fit() -> None:
    jobs = [
        job("first", "a", "x", 1),
        job("huge", "a", "y", 2, tokens=900),
        job("small", "a", "z", 3),
    ]
    standing = {"a": Balance(5_000)}
    assert order(jobs, {"x": 0, "y": 16, "z": 0}, standing, token_budget=90) == ["huge"]
    assert order(jobs, {"x": 0, "y": 0, "z": 0}, standing, token_budget=90) == ["first", "small"]


def test_no_tenant_is_refilled_because_another_in_credit_does_not_fit() -> None:
    jobs = [job("first", "a", "x", 1), job("huge", "a", "y", 2, tokens=900), job("b", "b", "x", 3)]
    standing = {"a": Balance(5_000), "b": Balance(-10)}
    assert order(jobs, {"x": 0, "y": 0}, standing, token_budget=90) == ["first"]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.integers(0, 500))),
    st.fixed_dictionaries(dict.fromkeys("abc", balances)),
    st.integers(0, 1_000),
    st.integers(1, 10),
)
def test_something_waiting_means_something_admitted(
    rows: list[tuple[str, str, int]],
    standing: dict[str, Balance],
    token_budget: int,
    max_jobs: int,
) -> None:
    jobs = [job(str(n), tenant, context, n, size) for n, (tenant, context, size) in enumerate(rows)]
    cached = dict.fromkeys("xyz", 0)
    picks, after = policy.dlpm_order(
        jobs, cached, standing, limits(token_budget, max_jobs), len(jobs)
    )
    assert bool(picks) == bool(jobs)
    assert len(picks) <= max_jobs
    assert len(picks) <= 1 or sum(pick.charged for pick in picks) <= token_budget
    for name, balance in after.items():
        assert balance.deficit <= max(standing[name].deficit, balance.weight * QUANTUM)


@pytest.mark.parametrize("weights", [(1, 1), (1, 3), (2, 5), (1, 100)])
def test_backlogged_tenants_share_by_weight_within_the_bound(weights: tuple[int, int]) -> None:
    standing = {str(index): Balance(0, weight) for index, weight in enumerate(weights)}
    paid = dict.fromkeys(standing, 0)
    largest = 32 + 90
    for step in range(3_000):
        size = 10 + step * 37 % 81
        jobs = [job(f"{name}", name, f"{name}{step}", 1, size) for name in standing]
        cached = {candidate.context_id: 0 for candidate in jobs}
        picks, standing = policy.dlpm_order(jobs, cached, standing, limits(0, 1), 1)
        for pick in picks:
            paid[pick.candidate.tenant] += pick.charged
        shares = [paid[name] / standing[name].weight for name in standing]
        assert max(shares) - min(shares) <= 2 * (largest + QUANTUM)
    assert min(paid.values()) > 0
