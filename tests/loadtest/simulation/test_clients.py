"""Arrivals of programs: told alike before and after a run, and as many as their mean says."""

from __future__ import annotations

from random import Random

import pytest

from loadtest.simulation.clients import Arrivals, Bursts, Gamma, Within

MINUTE_MS = 60_000.0


def begun(arrivals: Arrivals, until_ms: float) -> int:
    """Programs begun until then, by an open client."""
    random, now, count = Random(3), 0.0, 0
    while (now := now + arrivals.gap(random, now)) < until_ms:
        count += 1
    return count


def test_bursts_are_described_by_their_settings_alone() -> None:
    """The description is kept with figures: where a run left off has no place in it."""
    arrivals = Bursts(mean_ms=50.0, factor=6.0, on_ms=2_000.0, off_ms=12_000.0)
    before = str(arrivals)
    begun(arrivals, MINUTE_MS)
    assert str(arrivals) == before


@pytest.mark.parametrize(
    ("arrivals", "expected", "error"),
    [
        (Gamma(100.0, shape=0.5), 60_000, 0.03),
        (Gamma(100.0, shape=0.0), 59_999, 0.0),
        (Within(100.0, 20 * MINUTE_MS, 70 * MINUTE_MS), 30_000, 0.03),
        # A seventh of the time has six times the rate; some 430 bursts of random length.
        (Bursts(100.0, 6.0, 2_000.0, 12_000.0), 60_000 * 12 / 7, 0.08),
    ],
)
def test_as_many_programs_begin_as_their_mean_says(
    arrivals: Arrivals, expected: float, error: float
) -> None:
    """Within four standard deviations of what is drawn."""
    assert begun(arrivals, 100 * MINUTE_MS) == pytest.approx(expected, rel=error)
