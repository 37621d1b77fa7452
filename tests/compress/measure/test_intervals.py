"""Metrics of scored requests: what is averaged over what, and the bootstrap over groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.metrics import brier_score_loss, log_loss

from compress.data.requests import Request
from compress.measure import intervals
from compress.measure.intervals import ComparisonError, Scored, _summaries, compare, measure, values
from compress.measure.metrics import auc, calibration_curve


def _scored(group: str, scores: list[float], grades: list[int]) -> Scored:
    texts = tuple("x" for _ in grades)
    return Scored(Request(group, "x", texts, tuple(grades)), np.array(scores))


def test_gauc_is_the_plain_mean_over_requests_with_both_classes() -> None:
    scored = [
        _scored("a", [0.9, 0.1], [2, 0]),
        _scored("a", [0.1, 0.9, 0.2], [4, 0, 1]),
        _scored("b", [0.5, 0.6], [0, 0]),
    ]
    assert measure(scored, resamples=5)["gauc"].value == 0.5


def test_intervals_resample_groups_not_requests() -> None:
    alike = [_scored("only", [0.9, 0.1], [2, 0]), _scored("only", [0.1, 0.9], [2, 0])] * 4
    interval = measure(alike, resamples=50)["gauc"]
    assert (interval.low, interval.value, interval.high) == (0.5, 0.5, 0.5)
    apart = [_scored(str(i), [0.9, 0.1], [2 * (i % 2), 2 - 2 * (i % 2)]) for i in range(8)]
    assert measure(apart, resamples=50)["gauc"].low < 0.5 < measure(apart, 50)["gauc"].high


def test_users_get_an_auc_over_all_their_pairs() -> None:
    requests = [
        Request("u", "x", ("x", "x"), (1, 0), binary=True, by_user=True),
        Request("u", "x", ("x", "x"), (0, 1), binary=True, by_user=True),
    ]
    scores = [np.array([0.9, 0.8]), np.array([0.1, 0.2])]
    scored = [Scored(request, s) for request, s in zip(requests, scores, strict=True)]
    metrics = measure(scored, resamples=3)
    assert metrics["gauc"].value == 1.0
    assert metrics["uauc"].value == pytest.approx(0.75)
    assert "uauc" not in measure([_scored("a", [0.9, 0.1], [2, 0])], resamples=3)


def _of_users(users: list[int], width: int) -> list[Scored]:
    """A request of each of them, in this order, with labels and tied scores at random."""
    random, scored = np.random.default_rng(4), []
    for user in users:
        labels = tuple(random.integers(0, 2, width).tolist())
        request = Request(str(user), "x", ("x",) * width, labels, binary=True, by_user=True)
        scored.append(Scored(request, random.integers(0, 5, width) / 5))
    return scored


def test_every_user_has_an_auc_wherever_their_requests_stand() -> None:
    scored = _of_users(np.random.default_rng(5).integers(0, 60, 90).tolist(), 2)
    parts = []
    for user in {item.request.group for item in scored}:
        own = [item for item in scored if item.request.group == user]
        scores = np.concatenate([item.scores for item in own])
        parts.append(auc(scores, np.concatenate([item.labels for item in own])))
    assert 0 < np.isnan(parts).sum() < len(parts)
    assert values(scored)["uauc"] == pytest.approx(np.nanmean(parts), abs=1e-12)


class _Counting(np.ndarray):
    """Numbers of groups that know how many of them were compared with another."""

    compared = 0

    def __eq__(self, other: object) -> Any:
        _Counting.compared += self.size
        return super().__eq__(other)


def test_the_pairs_are_not_gone_through_for_every_user(monkeypatch: pytest.MonkeyPatch) -> None:
    scored = _of_users(list(range(50)), 2)
    expected, groups = values(scored), intervals._groups(scored)
    monkeypatch.setattr(intervals, "_groups", lambda scored: groups.view(_Counting))
    monkeypatch.setattr(_Counting, "compared", 0)
    assert values(scored)["uauc"] == expected["uauc"]
    assert _Counting.compared <= 2 * 100  # pairs


def _random(count: int, seed: int, noise: float) -> list[Scored]:
    """Requests in groups of three; the same grades for every seed."""
    grades = np.random.default_rng(0).integers(0, 5, (count, 12))
    random = np.random.default_rng(seed)
    scores = 1 / (1 + np.exp(-(grades - 2 + noise * random.standard_normal(grades.shape))))
    return [_scored(str(i // 3), list(scores[i]), list(grades[i])) for i in range(count)]


def test_pooled_metrics_are_those_of_all_pairs_together() -> None:
    scored = _random(20, 1, 2.0)
    scores = np.concatenate([item.scores for item in scored])
    labels = np.concatenate([item.labels for item in scored])
    share, curve = labels.mean(), calibration_curve(scores, labels)
    expected = {
        "auc": auc(scores, labels),
        "brier": brier_score_loss(labels, scores),
        "logloss": log_loss(labels, scores),
        "ece": sum(pairs * abs(score - yes) for score, yes, pairs in curve) / len(scores),
        "normalised_entropy": log_loss(labels, scores) / entropy([share, 1 - share]),
    }
    ours = values(scored)
    assert {name: ours[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_normalised_entropy_is_one_for_the_base_rate_and_unknown_for_one_class() -> None:
    base_rate = _scored("a", [0.25] * 4, [4, 0, 0, 0])
    assert values([base_rate])["normalised_entropy"] == pytest.approx(1)
    assert np.isnan(values([_scored("a", [0.5], [4])])["normalised_entropy"])


def test_calibrated_scores_have_no_calibration_error() -> None:
    scores = [0.2] * 150 + [0.8] * 150
    grades = [4, 0, 0, 0, 0] * 30 + [0, 4, 4, 4, 4] * 30
    assert values([_scored("a", scores, grades)])["ece"] < 1e-9
    high = [score + 0.1 for score in scores]
    assert values([_scored("a", high, grades)])["ece"] == pytest.approx(0.1)


def test_a_resampled_auc_is_that_of_the_drawn_groups_repeated() -> None:
    scored = _random(6, 1, 2.0)
    twice = [*scored, *scored[:3]]  # group 0 drawn twice, group 1 once
    draws = np.array([[1.0, 1.0], [2.0, 1.0]])
    summaries = _summaries(scored, draws)
    for name in ("auc", "gauc", "ndcg@5", "logloss", "normalised_entropy"):
        assert summaries[name][1] == pytest.approx(values(twice)[name], abs=1e-12)


def test_paired_intervals_are_narrower_than_two_apart() -> None:
    ours, theirs = _random(60, 1, 1.0), _random(60, 1, 1.05)
    paired = compare(ours, theirs, 300)["gauc"]
    alone = measure(ours, 300)["gauc"]
    difference = values(ours)["gauc"] - values(theirs)["gauc"]
    assert paired.value == pytest.approx(difference)
    assert paired.low <= paired.value <= paired.high
    assert paired.high - paired.low < (alone.high - alone.low) / 3


def test_a_better_model_is_told_from_a_worse_one_and_agreement_from_disagreement() -> None:
    better, worse = _random(60, 1, 0.5), _random(60, 2, 3.0)
    against = compare(better, worse, 300)
    assert against["gauc"].low > 0
    assert against["logloss"].high < 0
    assert 0 < against["kendall_tau"].value < 0.9
    assert against["kl_to_against"].low > 0
    itself = compare(better, better, 10)
    assert itself["kendall_tau"].value == pytest.approx(1)
    assert itself["kl_to_against"].value == 0


def test_other_requests_are_not_compared() -> None:
    with pytest.raises(ComparisonError, match="different requests"):
        compare(_random(6, 1, 1.0), _random(5, 1, 1.0), 3)
