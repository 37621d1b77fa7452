"""Isotonic calibration against scikit-learn's fit, and that it never reorders."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.calibration import calibration_from_json
from models.errors import CalibrationError
from models.isotonic import IsotonicCalibration, fit_isotonic

STEPS = IsotonicCalibration((-1.0, 0.0, 2.0), (0.1, 0.1, 0.9))


def sampled(count: int) -> tuple[list[float], list[int]]:
    """Labels of a law with a bend, which no sigmoid follows; logits in tenths, so that some tie."""
    generator = np.random.default_rng(5)
    logits = generator.normal(0.0, 2.0, count).round(1)
    probabilities = np.where(logits < 0, 0.2, 0.2 + 0.7 * np.clip(logits / 3, 0, 1))
    return logits.tolist(), (generator.random(count) < probabilities).astype(int).tolist()


def test_fit_agrees_with_scikit_learn() -> None:
    from sklearn.isotonic import IsotonicRegression

    logits, labels = sampled(3000)
    fitted = fit_isotonic(logits, labels)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(logits, labels)
    edge = 1 / 3002
    for logit in logits:
        expected = min(max(theirs.predict([logit])[0], edge), 1 - edge)
        assert fitted.calibrate(logit) == pytest.approx(expected, abs=1e-9)


def test_labels_may_be_grades_between_0_and_1() -> None:
    fitted = fit_isotonic([0.0, 1.0, 1.0, 2.0], [0.0, 0.5, 0.25, 1.0])
    assert fitted.calibrate(1.0) == pytest.approx(0.375)


def test_no_score_is_certain() -> None:
    fitted = fit_isotonic([-1.0, 1.0], [0, 1])
    assert [fitted.calibrate(x) for x in (-99.0, -1.0, 0.0, 1.0)] == [0.25, 0.25, 0.5, 0.75]


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_it_never_reorders_but_may_tie(first: float, second: float) -> None:
    low, high = sorted((first, second))
    assert 0.1 <= STEPS.calibrate(low) <= STEPS.calibrate(high) <= 0.9
    assert STEPS.calibrate(-0.5) == STEPS.calibrate(-3.0) == 0.1


NUMBERS = st.floats(-50, 50)


@given(st.lists(st.tuples(NUMBERS, st.booleans()), min_size=2, max_size=40), NUMBERS, NUMBERS)
def test_any_fit_rises(pairs: list[tuple[float, bool]], first: float, second: float) -> None:
    try:
        fitted = fit_isotonic([x for x, _ in pairs], [float(label) for _, label in pairs])
    except CalibrationError:
        return
    low, high = sorted((first, second))
    assert 0 < fitted.calibrate(low) <= fitted.calibrate(high) < 1


def test_falling_labels_are_refused() -> None:
    with pytest.raises(CalibrationError, match="fewer positives"):
        fit_isotonic([-2.0, -1.0, 1.0, 2.0], [1, 1, 0, 0])


@pytest.mark.parametrize(
    ("raw_logits", "scores"),
    [
        ((), ()),
        ((0.0,), (0.5, 0.6)),
        ((0.0, 0.0), (0.1, 0.2)),
        ((1.0, 0.0), (0.1, 0.2)),
        ((0.0, 1.0), (0.2, 0.1)),
        ((0.0, 1.0), (-0.1, 0.1)),
        ((0.0, 1.0), (0.1, 1.1)),
        ((0.0, math.inf), (0.1, 0.2)),
        ((0.0, 1.0), (0.1, math.nan)),
    ],
)
def test_a_curve_that_does_not_rise_is_refused(
    raw_logits: tuple[float, ...], scores: tuple[float, ...]
) -> None:
    with pytest.raises(CalibrationError, match="do not fall"):
        IsotonicCalibration(raw_logits, scores)


def test_it_comes_back_from_json_equal() -> None:
    assert calibration_from_json(json.loads(json.dumps(asdict(STEPS)))) == STEPS
