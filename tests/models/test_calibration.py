"""Calibration against sampled truth, and what it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.calibration import (
    KINDS,
    Calibration,
    calibration_from_json,
    fit_calibration,
    fit_platt,
    fit_temperature,
)
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


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_temperature_recovers_the_law_and_moves_no_zero(temperature: float) -> None:
    fitted = fit_temperature(*sampled(1 / temperature, 0.0))
    assert fitted.scale * temperature == pytest.approx(1.0, rel=0.08)
    assert fitted.calibrate(0.0) == 0.5


def test_a_temperature_with_a_shift_is_refused() -> None:
    with pytest.raises(CalibrationError, match="'temperature' with shift 0"):
        Calibration(scale=1.0, shift=0.1, kind="temperature")


def test_graded_labels_fit_as_their_mean_does() -> None:
    logits = [-1.0, 0.0, 2.0] * 100
    graded = fit_platt(logits, [0.25, 0.5, 0.75] * 100)
    votes = [(0, 0, 0, 1), (0, 0, 1, 1), (0, 1, 1, 1)] * 100
    voted = fit_platt(
        [logit for logit in logits for _ in range(4)], [vote for four in votes for vote in four]
    )
    # Soft targets pull 300 labels a little further than 1,200.
    assert graded.scale == pytest.approx(voted.scale, rel=0.02)
    assert graded.shift == pytest.approx(voted.shift, abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_too_few_labels_of_a_class_are_refused(kind: str) -> None:
    fewest = KINDS[kind].fewest
    logits = [float(number - 9 * fewest) for number in range(10 * fewest)]

    def labels(positives: int) -> list[int]:
        return [0] * (10 * fewest - positives) + [1] * positives

    assert fit_calibration(kind, logits, labels(fewest)).kind == kind
    with pytest.raises(CalibrationError, match=f"needs {fewest} labels .* has {fewest - 1};"):
        fit_calibration(kind, logits, labels(fewest - 1))


def test_an_unknown_kind_and_a_nan_are_refused() -> None:
    with pytest.raises(CalibrationError, match="temperature, platt, isotonic"):
        fit_calibration("beta", [], [])
    with pytest.raises(CalibrationError, match="not finite"):
        fit_calibration("platt", [math.nan] * 100, [0, 1] * 50)


@pytest.mark.parametrize("kind", ["platt", "temperature"])
def test_a_card_gives_back_what_it_was_given(kind: str) -> None:
    calibration = Calibration(scale=0.3, kind=kind)
    assert calibration_from_json(json.loads(json.dumps(asdict(calibration)))) == calibration
    assert list(asdict(calibration)) == ["scale", "shift", "kind"], "digests of cards stand on it"
