"""Metrics against scikit-learn, ties included, and the bootstrap over groups."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss, ndcg_score, roc_auc_score

from compress.metrics import (
    auc,
    brier,
    expected_calibration_error,
    logloss,
    ndcg,
    reciprocal_rank,
)

# Few distinct scores, so that ties are common.
PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), min_size=2, max_size=30).map(
    lambda pairs: (np.array([s / 7 for s, _ in pairs]), np.array([g for _, g in pairs]))
)


@given(PAIRS)
def test_auc_is_scikit_learns(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    scores, grades = pairs
    labels = grades >= 2
    assume(labels.any() and not labels.all())
    assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@given(PAIRS, st.sampled_from([1, 5, 10]))
def test_ndcg_is_scikit_learns_on_exponential_gains(
    pairs: tuple[np.ndarray, np.ndarray], cutoff: int
) -> None:
    scores, grades = pairs
    assume(grades.any())
    gains = 2.0**grades - 1
    expected = ndcg_score(gains[None], scores[None], k=cutoff)
    assert ndcg(scores, grades, cutoff) == pytest.approx(expected, abs=1e-12)


@given(PAIRS)
def test_logloss_and_brier_are_scikit_learns(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    scores, grades = pairs
    scores, labels = scores * 0.98 + 0.01, grades >= 2
    assert logloss(scores, labels) == pytest.approx(log_loss(labels, scores, labels=[0, 1]))
    assert brier(scores, labels) == pytest.approx(brier_score_loss(labels, scores))


def test_one_class_has_no_auc_and_no_gain_no_ndcg() -> None:
    assert math.isnan(auc(np.array([0.1, 0.2]), np.array([True, True])))
    assert math.isnan(ndcg(np.array([0.1, 0.2]), np.array([0, 0]), 5))


def test_reciprocal_rank_counts_from_one() -> None:
    assert reciprocal_rank(np.array([0.9, 0.5, 0.7]), np.array([False, False, True])) == 0.5
    assert reciprocal_rank(np.array([0.9]), np.array([False])) == 0


def test_calibrated_scores_have_no_calibration_error() -> None:
    scores = np.repeat([0.2, 0.8], 150)
    labels = np.concatenate([np.tile([True] + [False] * 4, 30), np.tile([False] + [True] * 4, 30)])
    assert expected_calibration_error(scores, labels) < 1e-9
    assert expected_calibration_error(scores + 0.1, labels) == pytest.approx(0.1)
