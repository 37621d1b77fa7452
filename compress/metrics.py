"""Ranking and calibration metrics of plain arrays. Knows nothing of requests, models or files.

AUC: ties count one half. NDCG: gain 2^grade - 1, discount 1 / log2(rank + 1). ECE: 15 bins
of equal mass.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
BINS = 15


def auc(scores: Floats, labels: Flags) -> float:
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


def reciprocal_rank(scores: Floats, labels: Flags) -> float:
    """1 / rank of the first relevant candidate, ties in input order; 0 without one."""
    order = labels[np.argsort(-scores, kind="stable")]
    return 1 / (1 + int(order.argmax())) if order.any() else 0.0


def logloss(scores: Floats, labels: Flags) -> float:
    """Mean negative log-likelihood in nats."""
    clipped = np.clip(scores, 1e-12, 1 - 1e-12)
    return float(-np.where(labels, np.log(clipped), np.log1p(-clipped)).mean())


def brier(scores: Floats, labels: Flags) -> float:
    """Mean squared error of the probabilities."""
    return float(((scores - labels) ** 2).mean())


def expected_calibration_error(scores: Floats, labels: Flags) -> float:
    """Mean over equal-mass bins of |mean score - share relevant|, weighted by bin size."""
    order = np.argsort(scores, kind="stable")
    bins = [part for part in np.array_split(order, BINS) if len(part)]
    gaps = [len(part) * abs(scores[part].mean() - labels[part].mean()) for part in bins]
    return float(sum(gaps) / len(scores))


POOLED: dict[str, Callable[[Floats, Flags], float]] = {
    "auc": auc,
    "logloss": logloss,
    "brier": brier,
    "ece": expected_calibration_error,
}
