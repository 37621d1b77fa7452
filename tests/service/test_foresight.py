"""The next claim comes so long before a batch's end as a claim takes, and no longer."""

from __future__ import annotations

import pytest

from service.foresight import SPARE_SECONDS, Foresight


def test_before_anything_is_known_the_next_batch_is_claimed_at_once() -> None:
    assert Foresight().due(began=5.0, tokens=1000) <= 5.0


def test_a_claim_is_due_its_own_time_twice_before_the_forecast_end() -> None:
    foresight = Foresight()
    foresight.scored(tokens=1000, seconds=0.020)
    foresight.claimed(0.002)
    assert foresight.lead == pytest.approx(0.004 + SPARE_SECONDS)
    assert foresight.due(5.0, 500) == pytest.approx(5.0 + 0.010 - foresight.lead)


def test_one_odd_measurement_moves_the_forecast_a_little_and_many_move_it_there() -> None:
    foresight = Foresight()
    foresight.scored(1000, 0.020)
    foresight.scored(1000, 0.100)
    once = foresight.due(0.0, 1000)
    assert once == pytest.approx(0.030 - foresight.lead)
    for _ in range(60):
        foresight.scored(1000, 0.100)
    assert foresight.due(0.0, 1000) == pytest.approx(0.100 - foresight.lead, rel=0.01)


def test_a_batch_that_costs_nothing_is_no_division_by_zero() -> None:
    foresight = Foresight()
    foresight.scored(0, 0.001)
    assert foresight.due(1.0, 0) == pytest.approx(1.0 - foresight.lead)
