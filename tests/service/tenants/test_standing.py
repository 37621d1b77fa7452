"""Standings add up over a tenant's nodes, and Jain's index is what its definition says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.gate.job import GateStats, NodeStats
from service.tenants.standing import WINDOW_MS, History, Standing, jain, standings


def node(service: int, deficit: int, queued: int = 0, weight: int = 1) -> NodeStats:
    return NodeStats(deficit, weight, queued, 10 * queued, 0, service)


def snapshot(**nodes: NodeStats) -> GateStats:
    return GateStats("dlpm", 0, 0, 0, 0, 0, 0, 0, 0, 0, nodes)


def standing(service: int, queued: int = 1, weight: int = 1, delivered: int = 0) -> Standing:
    return Standing(service, 0, 1, weight, queued, 0, delivered)


def test_a_tenant_is_the_sum_of_its_nodes_at_the_deficit_of_the_lowest() -> None:
    stats = snapshot(i=node(100, -5, 2), b=node(30, 7, 1), stranger=node(999, -999, 9))
    found = standings(stats, {"i": "ada", "b": "ada", "absent": "bob"}, 4, {"ada": 70, "x": 1})
    assert found == {"ada": Standing(130, -5, 2, 1, 3, 0, 70)}


@pytest.mark.parametrize(("deficit", "owed"), [(1, 0), (0, 1), (-7, 1), (-8, 2), (-15, 2)])
def test_refills_owed_bring_the_deficit_above_zero(deficit: int, owed: int) -> None:
    found = standings(snapshot(a=node(0, deficit, weight=2)), {"a": "ada"}, 4, {})
    assert found["ada"].refills_owed == owed
    assert deficit + owed * 8 > 0


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=8))
def test_jain_lies_between_one_nth_and_one(shares: list[int]) -> None:
    assert 1 / len(shares) - 1e-9 <= jain(shares) <= 1 + 1e-9


def test_jain_of_equal_and_of_lopsided_shares() -> None:
    assert jain([3, 3, 3]) == jain([]) == jain([0, 0]) == 1.0
    assert jain([1, 0, 0, 0]) == 0.25


def test_history_weighs_service_and_skips_who_did_not_wait_throughout() -> None:
    history = History()
    history.add(0, {"ada": standing(50), "bob": standing(0, weight=2), "idle": standing(0, 0)})
    history.add(10, {"ada": standing(60), "bob": standing(20, weight=2), "idle": standing(9)})
    assert history.jain("service") == 1.0
    history.add(20, {"ada": standing(70), "bob": standing(20, weight=2), "idle": standing(9)})
    assert history.jain("service") == pytest.approx(jain([20, 10]))


def test_history_tells_what_was_charged_from_what_was_delivered() -> None:
    history = History()
    history.add(0, {"ada": standing(0, delivered=1_000), "bob": standing(0, delivered=5)})
    history.add(10, {"ada": standing(7, delivered=1_030), "bob": standing(7, delivered=15)})
    assert history.jain("service") == 1.0
    assert history.jain("delivered") == pytest.approx(jain([30, 10]))


def test_history_forgets_what_left_its_window() -> None:
    history = History()
    history.add(0, {"ada": standing(0), "bob": standing(0)})
    history.add(10, {"ada": standing(900), "bob": standing(0)})
    assert history.jain("service") == 0.5
    history.add(WINDOW_MS + 10, {"ada": standing(905), "bob": standing(5)})
    assert history.jain("service") == 1.0
