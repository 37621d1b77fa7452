"""Jain's index and gaps by hand-made examples."""

from __future__ import annotations

import pytest

from loadtest.simulation.measures import Gaps, jain


@pytest.mark.parametrize(
    ("values", "index"), [([2, 2, 2], 1.0), ([3, 0, 0], 1 / 3), ([1, 3], 0.8), ([0, 0], 1.0)]
)
def test_jain(values: list[float], index: float) -> None:
    assert jain(values) == pytest.approx(index)


def test_a_gap_counts_from_its_window_on_and_per_weight() -> None:
    gaps = Gaps([1, 2])
    gaps.observe([100, 0], [True, True])
    assert gaps.largest == 0  # what was before both were backlogged does not count
    gaps.observe([110, 0], [True, True])
    gaps.observe([110, 40], [True, True])
    assert gaps.largest == 20


def test_a_window_ends_when_a_client_has_no_backlog() -> None:
    gaps = Gaps([1, 1])
    gaps.observe([0, 0], [True, True])
    gaps.observe([50, 0], [True, False])
    gaps.observe([50, 0], [True, True])
    gaps.observe([55, 0], [True, True])
    assert gaps.largest == 5
