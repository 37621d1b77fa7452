"""Metrics of scored requests: what is averaged over what, and the bootstrap over groups."""

from __future__ import annotations

import numpy as np
import pytest

from compress.data import Request
from compress.intervals import Scored, measure


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
