"""What jobs cost, who pays, and what is given back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.gate.job import LevelStanding
from service.gate.ledger import Ledger
from service.gate.queues import Entry
from service.gate.settings import ATTRIBUTIONS, GateSettings
from service.gate.tree import VIRTUAL_SCALE, Node
from tests.service.gate.jobs import build_job, levels

SETTINGS = GateSettings(quantum=100, quantum_parts=1, extend_weight=1, output_weight=2)
CONTEXT_TOKENS = 32


def seated(ledger: Ledger, path: str, deficit: int = 1_000, jobs: int = 0) -> Node:
    """A leaf whose levels all have this counter."""
    leaf = ledger.tree.leaf(levels(path))
    for node in leaf.lineage():
        node.deficit = deficit
    ledger.tree.enqueue(leaf, jobs, jobs)
    return leaf


def entry_of(leaf: Node, candidate_tokens: int = 10, output_tokens: int = 0) -> Entry:
    job = build_job("job", leaf.id, candidate_tokens=candidate_tokens, output_tokens=output_tokens)
    return Entry(job, leaf, 1, 0, 60_000, 0)


@pytest.mark.parametrize(
    ("uncached", "candidates", "output", "cost"),
    [(32, 10, 0, 42), (0, 10, 0, 10), (16, 10, 5, 36), (0, 0, 0, 1)],
)
def test_a_job_costs_extend_and_output_tokens_by_their_weights_and_never_nothing(
    uncached: int, candidates: int, output: int, cost: int
) -> None:
    job = build_job("job", candidate_tokens=candidates)
    assert Ledger(SETTINGS).cost(job, uncached, output) == cost
    tripled = Ledger(replace(SETTINGS, extend_weight=3))
    assert tripled.cost(job, uncached, 0) == max(1, 3 * (uncached + candidates))


def test_the_largest_cost_is_the_worst_case_of_the_jobs_seen() -> None:
    ledger = Ledger(SETTINGS)
    for candidates, output in [(10, 4), (10, 20), (1, 0)]:
        ledger.expect(build_job("job", candidate_tokens=candidates, output_tokens=output))
    assert ledger.largest_cost == CONTEXT_TOKENS + 10 + 2 * 20


def test_credit_takes_all_levels() -> None:
    ledger = Ledger(SETTINGS)
    leaf = seated(ledger, "acme/alice")
    assert ledger.in_credit(leaf)
    ledger.tree.nodes["acme"].deficit = 0
    assert not ledger.in_credit(leaf)
    ledger.tree.policy = "fcfs"
    assert ledger.in_credit(leaf)


def test_the_worst_case_is_charged_and_what_was_not_used_comes_back() -> None:
    ledger = Ledger(SETTINGS)
    leaf = seated(ledger, "acme/alice")
    entry = entry_of(leaf, output_tokens=20)
    ledger.reserve(entry, 16, [])
    assert entry.charged == 16 + 10 + 2 * 20
    assert [node.deficit for node in leaf.lineage()] == [1_000 - 66] * 2
    ledger.reconcile(entry, extend_tokens=12, output_tokens=3)
    assert [node.deficit for node in leaf.lineage()] == [1_000 - 18] * 2
    assert ledger.uncharged == 0


def test_vtc_counts_all_tokens_of_a_job_cached_or_not_and_takes_none_back() -> None:
    ledger = Ledger(SETTINGS)
    entry = entry_of(seated(ledger, "alice"), output_tokens=5)
    ledger.reserve(entry, 0, [])
    ledger.reconcile(entry, extend_tokens=1, output_tokens=0)
    assert entry.leaf.virtual == (CONTEXT_TOKENS + 10 + 5) * VIRTUAL_SCALE


def test_use_above_what_was_reserved_is_counted_and_not_charged() -> None:
    ledger = Ledger(SETTINGS)
    entry = entry_of(seated(ledger, "alice"))
    ledger.reserve(entry, 0, [])
    ledger.reconcile(entry, extend_tokens=42, output_tokens=0)
    assert (entry.leaf.service, ledger.uncharged) == (10, 32)


def test_an_engine_that_reports_no_work_is_still_paid_one() -> None:
    ledger = Ledger(SETTINGS)
    entry = entry_of(seated(ledger, "alice"))
    ledger.reserve(entry, 32, [])
    ledger.reconcile(entry, extend_tokens=0, output_tokens=0)
    assert entry.leaf.service == 1


def test_a_split_context_is_paid_by_the_waiting_leaves_in_credit() -> None:
    ledger = Ledger(replace(SETTINGS, attribution="split"))
    payer, friend = seated(ledger, "payer"), seated(ledger, "friend")
    debtor = seated(ledger, "debtor", deficit=-500)
    entry = entry_of(payer)
    ledger.reserve(entry, 32, [friend.id, debtor.id])
    assert [node.service for node in (payer, friend, debtor)] == [26, 16, 0]


def test_a_refund_goes_to_the_jobs_own_leaf_first() -> None:
    ledger = Ledger(replace(SETTINGS, attribution="split"))
    payer, friend = seated(ledger, "payer"), seated(ledger, "friend")
    entry = entry_of(payer)
    ledger.reserve(entry, 32, [friend.id])
    ledger.refund(entry, 30)
    assert (payer.service, friend.service) == (0, 12)


def test_the_platform_bears_the_context_and_gets_its_part_back() -> None:
    ledger = Ledger(replace(SETTINGS, attribution="platform"))
    entry = entry_of(seated(ledger, "payer"))
    ledger.reserve(entry, 32, [])
    assert (entry.leaf.service, ledger.platform, ledger.tree.root.service) == (10, 32, 42)
    ledger.reconcile(entry, extend_tokens=6, output_tokens=0)
    assert (entry.leaf.service, ledger.platform, ledger.tree.root.service) == (0, 6, 6)


def test_a_charge_that_leaves_nobody_positive_refills_nobody_yet() -> None:
    ledger = Ledger(SETTINGS)
    payer, rival = seated(ledger, "payer", 5, jobs=1), seated(ledger, "rival", 0, jobs=1)
    ledger.reserve(entry_of(payer), 0, [])
    assert (payer.deficit, rival.deficit) == (-5, 0)


@given(
    st.sampled_from(ATTRIBUTIONS),
    st.integers(0, 32),
    st.integers(0, 60),
    st.integers(0, 20),
    st.lists(st.tuples(st.sampled_from("bcde"), st.integers(-99, 99)), max_size=4),
)
def test_every_attribution_charges_exactly_what_was_used_up_to_what_was_reserved(
    attribution: str, uncached: int, extend: int, output: int, others: list[tuple[str, int]]
) -> None:
    ledger = Ledger(replace(SETTINGS, attribution=attribution))
    sharers = [seated(ledger, path, deficit).id for path, deficit in dict(others).items()]
    entry = entry_of(seated(ledger, "payer"), output_tokens=20)
    ledger.reserve(entry, uncached, sharers)
    reserved, used = uncached + 10 + 40, max(1, extend + 2 * output)
    ledger.reconcile(entry, extend, output)
    leaves = sum(node.service for name, node in ledger.tree.nodes.items() if name)
    assert leaves + ledger.platform == ledger.tree.root.service == min(reserved, used)
    assert ledger.uncharged == max(0, used - reserved)
    assert all(node.service >= 0 for node in ledger.tree.nodes.values())


def test_a_levels_standing_names_the_waiting_rivals_beside_it() -> None:
    ledger = Ledger(SETTINGS)
    node = seated(ledger, "me:2", deficit=-350, jobs=1)
    seated(ledger, "one:3", jobs=1)
    seated(ledger, "two:4", jobs=1)
    seated(ledger, "idle:5")
    assert ledger.standing(node) == LevelStanding("me", -350, 2, 2, 2, 7)
