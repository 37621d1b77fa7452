"""The next claim comes so long before a batch's end as a claim takes, and no longer."""

from __future__ import annotations

import pytest

from service.engines.claim_timer import SPARE_SECONDS, ClaimTimer


def test_before_anything_is_known_the_next_batch_is_claimed_at_once() -> None:
    assert ClaimTimer().due(began=5.0, tokens=1000) <= 5.0


def test_a_claim_is_due_its_own_time_twice_before_the_forecast_end() -> None:
    timer = ClaimTimer()
    timer.scored(tokens=1000, seconds=0.020)
    timer.claimed(0.002)
    assert timer.lead == pytest.approx(0.004 + SPARE_SECONDS)
    assert timer.due(5.0, 500) == pytest.approx(5.0 + 0.010 - timer.lead)


def test_one_odd_measurement_moves_the_forecast_a_little_and_many_move_it_there() -> None:
    timer = ClaimTimer()
    timer.scored(1000, 0.020)
    timer.scored(1000, 0.100)
    once = timer.due(0.0, 1000)
    assert once == pytest.approx(0.030 - timer.lead)
    for _ in range(60):
        timer.scored(1000, 0.100)
    assert timer.due(0.0, 1000) == pytest.approx(0.100 - timer.lead, rel=0.01)


def test_a_batch_that_costs_nothing_is_no_division_by_zero() -> None:
    timer = ClaimTimer()
    timer.scored(0, 0.001)
    assert timer.due(1.0, 0) == pytest.approx(1.0 - timer.lead)
