"""Platt calibration against sampled truth, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.calibration import Calibration, fit_platt
from models.errors import CalibrationError


def sampled(scale: float, shift: float, count: int = 20_000) -> tuple[list[float], list[int]]:
    generator = np.random.default_rng(11)
    logits = generator.normal(1.5, 2.0, count)
    probabilities = 1 / (1 + np.exp(-(scale * logits + shift)))
    return logits.tolist(), (generator.random(count) < probabilities).astype(int).tolist()


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.4, -1.3), (2.5, 0.7)])
def test_fit_recovers_the_law_the_labels_were_drawn_from(scale: float, shift: float) -> None:
    fitted = fit_platt(*sampled(scale, shift))
    # Three standard errors of a logistic fit on 20,000 labels.
    assert fitted.scale == pytest.approx(scale, rel=0.08)
    assert fitted.shift == pytest.approx(shift, abs=0.12)


def test_fit_agrees_with_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    logits, labels = sampled(0.7, -0.4)
    fitted = fit_platt(logits, labels)
    theirs = LogisticRegression(C=1e12, tol=1e-10).fit(np.array(logits)[:, None], labels)
    # Theirs has hard targets; ours pulls 20,000 labels by about one part in ten thousand.
    assert fitted.scale == pytest.approx(theirs.coef_[0, 0], rel=2e-3)
    assert fitted.shift == pytest.approx(theirs.intercept_[0], abs=2e-3)


def test_mean_probability_equals_the_mean_target() -> None:
    logits, labels = sampled(1.3, 0.5, 500)
    fitted = fit_platt(logits, labels)
    positives, negatives = sum(labels), len(labels) - sum(labels)
    soft = positives * (positives + 1) / (positives + 2) + negatives / (negatives + 2)
    assert sum(map(fitted.calibrate, logits)) == pytest.approx(soft, abs=1e-6)


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e6])
def test_fit_does_not_depend_on_the_unit_of_the_logits(factor: float) -> None:
    logits, labels = sampled(1.0, 0.0, 300)
    plain = fit_platt(logits, labels)
    scaled = fit_platt([factor * x for x in logits], labels)
    assert scaled.scale * factor == pytest.approx(plain.scale, rel=1e-6)
    assert scaled.shift == pytest.approx(plain.shift, rel=1e-6)


def test_separable_labels_have_a_finite_fit() -> None:
    fitted = fit_platt([-2.0, -1.0, 1.0, 2.0], [0, 0, 1, 1])
    assert 0.5 < fitted.calibrate(1.0) < 1


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1]])
def test_one_class_is_refused(labels: list[int]) -> None:
    with pytest.raises(CalibrationError, match="both classes"):
        fit_platt([0.1, 0.2, 0.3], labels)


def test_inverted_labels_are_refused() -> None:
    with pytest.raises(CalibrationError, match="fewer positives"):
        fit_platt([-2.0, -1.0, 1.0, 2.0], [1, 1, 0, 0])


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_that_reorders_is_refused(scale: float) -> None:
    with pytest.raises(CalibrationError, match="finite scale above 0"):
        Calibration(scale=scale)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_calibration_never_reorders(first: float, second: float) -> None:
    calibration = Calibration(scale=0.3, shift=-2.0)
    low, high = sorted((first, second))
    assert 0 <= calibration.calibrate(low) <= calibration.calibrate(high) <= 1
