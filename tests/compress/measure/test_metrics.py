"""Metrics against scikit-learn, ties included, and the bootstrap over groups."""

from __future__ import annotations

import math
import tracemalloc
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from ir_measures import RR, nDCG, pytrec_eval
from scipy.stats import entropy, kendalltau
from sklearn.calibration import calibration_curve as quantile_curve
from sklearn.metrics import log_loss, ndcg_score, roc_auc_score
from torchmetrics.functional import kendall_rank_corrcoef
from torchmetrics.functional.classification import binary_auroc
from torchmetrics.functional.retrieval import (
    retrieval_normalized_dcg,
    retrieval_reciprocal_rank,
)

from compress.measure.metrics import (
    auc,
    calibration_curve,
    divergences,
    kendall_tau,
    losses,
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
def test_losses_average_to_scikit_learns(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    scores, grades = pairs
    scores, labels = scores * 0.98 + 0.01, grades >= 2
    expected = log_loss(labels, scores, labels=[0, 1])
    assert losses(scores, labels).mean() == pytest.approx(expected)


def _slate(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """24 distinct scores and grades 0 to 4, a positive among them."""
    random = np.random.default_rng(seed)
    grades = random.integers(0, 5, 24)
    grades[0], grades[1] = 4, 0
    return random.permutation(24) / 24 + 1 / 48, grades


@pytest.mark.parametrize("seed", range(5))
def test_torchmetrics_agrees(seed: int) -> None:
    scores, grades = _slate(seed)
    predicted, labels = torch.from_numpy(scores), torch.from_numpy(grades >= 2)
    gains = torch.from_numpy(2**grades - 1)
    assert auc(scores, grades >= 2) == pytest.approx(float(binary_auroc(predicted, labels.long())))
    for cutoff in (1, 5, 10):
        theirs = retrieval_normalized_dcg(predicted, gains, top_k=cutoff)
        assert ndcg(scores, grades, cutoff) == pytest.approx(float(theirs), abs=1e-6)
    assert reciprocal_rank(scores, grades >= 2) == pytest.approx(
        float(retrieval_reciprocal_rank(predicted, labels))
    )
    other = torch.from_numpy(np.round(scores * 5))
    tau = kendall_rank_corrcoef(predicted, other, variant="b")
    assert kendall_tau(scores, np.round(scores * 5)) == pytest.approx(float(tau), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_ir_measures_agrees(seed: int) -> None:
    scores, grades = _slate(seed)
    run = {"q": {str(index): float(score) for index, score in enumerate(scores)}}
    gains = {"q": {str(index): int(2**grade - 1) for index, grade in enumerate(grades)}}
    relevant = {"q": {str(index): int(grade >= 2) for index, grade in enumerate(grades)}}
    for cutoff in (1, 5, 10):
        theirs = pytrec_eval.calc_aggregate([nDCG @ cutoff], gains, run)[nDCG @ cutoff]
        assert ndcg(scores, grades, cutoff) == pytest.approx(theirs, abs=1e-9)
    first = pytrec_eval.calc_aggregate([RR], relevant, run)[RR]
    assert reciprocal_rank(scores, grades >= 2) == pytest.approx(first)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=20))
def test_kendall_tau_is_scipys_with_ties(pairs: list[tuple[int, int]]) -> None:
    first, second = (np.array(side, dtype=np.float64) for side in zip(*pairs, strict=True))
    expected = kendalltau(first, second).statistic
    assert kendall_tau(first, second) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_kendall_tau_of_many_candidates_takes_no_table_of_their_pairs() -> None:
    random = np.random.default_rng(0)
    first = random.standard_normal(3000)
    second = np.round(first + random.standard_normal(3000), 1)
    tracemalloc.start()
    found = kendall_tau(first, second)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == pytest.approx(kendalltau(first, second).statistic, abs=1e-12)
    assert most < 3000 * 3000  # bytes, one for each pair


def test_divergences_go_from_teacher_to_student() -> None:
    teacher, student = np.array([0.9, 0.5]), np.array([0.6, 0.5])
    expected = [entropy([p, 1 - p], [q, 1 - q]) for p, q in zip(teacher, student, strict=True)]
    assert divergences(teacher, student) == pytest.approx(expected)
    assert np.isfinite(divergences(np.array([0.0, 1.0]), np.array([1.0, 0.0]))).all()


def test_the_calibration_curve_is_scikit_learns_by_quantiles() -> None:
    random = np.random.default_rng(0)
    scores = random.permutation(300) / 300
    labels = random.random(300) < scores
    shares, means = quantile_curve(labels, scores, n_bins=15, strategy="quantile")
    ours = calibration_curve(scores, labels)
    assert [pairs for _, _, pairs in ours] == [20] * 15
    assert [share for _, share, _ in ours] == pytest.approx(shares)
    assert [score for score, _, _ in ours] == pytest.approx(means)


def test_one_class_has_no_auc_and_no_gain_no_ndcg() -> None:
    assert math.isnan(auc(np.array([0.1, 0.2]), np.array([True, True])))
    assert math.isnan(ndcg(np.array([0.1, 0.2]), np.array([0, 0]), 5))


def test_reciprocal_rank_counts_from_one() -> None:
    assert reciprocal_rank(np.array([0.9, 0.5, 0.7]), np.array([False, False, True])) == 0.5
    assert reciprocal_rank(np.array([0.9]), np.array([False])) == 0


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6))
def test_reciprocal_rank_is_the_mean_over_all_orders_of_tied(pairs: list[tuple[int, bool]]) -> None:
    scores, labels = (np.array(side) for side in zip(*pairs, strict=True))
    ranks = []
    for order in permutations(range(len(pairs))):
        ranked = [labels[index] for index in order]
        if (np.diff(scores[list(order)]) <= 0).all():
            ranks.append(1 / (1 + ranked.index(True)) if any(ranked) else 0.0)
    assert reciprocal_rank(scores / 2, labels) == pytest.approx(np.mean(ranks), abs=1e-12)
