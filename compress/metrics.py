"""Ranking and calibration metrics, with bootstrap intervals. Knows nothing of models or files.

AUC: ties count one half. gauc: plain mean over requests with both classes. NDCG: gain 2^grade - 1,
discount 1 / log2(rank + 1); requests without gains are left out. ECE: 15 bins of equal mass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compress.data import Request

Floats = npt.NDArray[np.float64]
BINS = 15
CUTOFFS = (1, 5, 10)


@dataclass(frozen=True, slots=True)
class Scored:
    """One request with its calibrated probabilities, (candidates,)."""

    request: Request
    scores: Floats

    @property
    def labels(self) -> npt.NDArray[np.bool_]:
        """(candidates,) relevant or not."""
        return np.array(self.request.relevant)


@dataclass(frozen=True, slots=True)
class Interval:
    """A metric on all data, and the 2.5 and 97.5 percentiles of its bootstrap."""

    value: float
    low: float
    high: float


def auc(scores: Floats, labels: npt.NDArray[np.bool_]) -> float:
    """Probability that a positive stands above a negative; nan without both classes."""
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    _, tied, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_ranks = counts.cumsum() - (counts - 1) / 2
    ranks = mean_ranks[tied][labels].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))


def ndcg(scores: Floats, grades: npt.NDArray[np.int64], cutoff: int) -> float:
    """Tied candidates share the mean of their discounts, as in scikit-learn; nan without gains."""
    gains = np.exp2(grades) - 1.0
    discounts = 1 / np.log2(np.arange(2, len(grades) + 2))
    discounts[cutoff:] = 0
    ideal = float(np.sort(gains)[::-1] @ discounts)
    _, tied, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    sums = np.add.reduceat(discounts, counts.cumsum() - counts)
    return float(gains @ (sums / counts)[tied]) / ideal if ideal > 0 else float("nan")


def reciprocal_rank(scores: Floats, labels: npt.NDArray[np.bool_]) -> float:
    """1 / rank of the first relevant candidate, ties in input order; 0 without one."""
    order = labels[np.argsort(-scores, kind="stable")]
    return 1 / (1 + int(order.argmax())) if order.any() else 0.0


def logloss(scores: Floats, labels: npt.NDArray[np.bool_]) -> float:
    """Mean negative log-likelihood in nats."""
    clipped = np.clip(scores, 1e-12, 1 - 1e-12)
    return float(-np.where(labels, np.log(clipped), np.log1p(-clipped)).mean())


def brier(scores: Floats, labels: npt.NDArray[np.bool_]) -> float:
    """Mean squared error of the probabilities."""
    return float(((scores - labels) ** 2).mean())


def expected_calibration_error(scores: Floats, labels: npt.NDArray[np.bool_]) -> float:
    """Mean over equal-mass bins of |mean score - share relevant|, weighted by bin size."""
    order = np.argsort(scores, kind="stable")
    bins = [part for part in np.array_split(order, BINS) if len(part)]
    gaps = [len(part) * abs(scores[part].mean() - labels[part].mean()) for part in bins]
    return float(sum(gaps) / len(scores))


POOLED: dict[str, Callable[[Floats, npt.NDArray[np.bool_]], float]] = {
    "auc": auc,
    "logloss": logloss,
    "brier": brier,
    "ece": expected_calibration_error,
}


def measure(scored: Sequence[Scored], resamples: int, seed: int = 0) -> dict[str, Interval]:
    """All metrics; resamples whole groups (occupations or users) with replacement."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(scored):
        members[item.request.group].append(index)
    groups = [np.array(indices) for indices in members.values()]
    per_request = {name: np.array(values) for name, values in _per_request(scored).items()}
    everything = np.arange(len(scored))
    value = _summarise(scored, per_request, everything)
    random = np.random.default_rng(seed)
    draws = [
        _summarise(scored, per_request, np.concatenate([groups[g] for g in chosen]))
        for chosen in random.integers(len(groups), size=(resamples, len(groups)))
    ]
    return {
        name: Interval(value[name], *np.nanpercentile([draw[name] for draw in draws], (2.5, 97.5)))
        for name in value
    }


def _per_request(scored: Sequence[Scored]) -> dict[str, list[float]]:
    values: dict[str, list[float]] = defaultdict(list)
    for item in scored:
        grades = np.array(item.request.grades)
        values["gauc"].append(auc(item.scores, item.labels))
        values["mrr"].append(reciprocal_rank(item.scores, item.labels))
        for cutoff in CUTOFFS:
            values[f"ndcg@{cutoff}"].append(ndcg(item.scores, grades, cutoff))
    return values


def _summarise(
    scored: Sequence[Scored], per_request: dict[str, Floats], chosen: npt.NDArray[np.int64]
) -> dict[str, float]:
    scores = np.concatenate([scored[index].scores for index in chosen])
    labels = np.concatenate([scored[index].labels for index in chosen])
    summary = {name: metric(scores, labels) for name, metric in POOLED.items()}
    return summary | {name: _mean(values[chosen]) for name, values in per_request.items()}


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
