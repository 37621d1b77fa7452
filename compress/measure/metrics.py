"""Ranking and calibration metrics of plain arrays. Knows nothing of requests, models or files.

AUC: ties count one half. NDCG: gain 2^grade - 1, discount 1 / log2(rank + 1). Bins of
calibration: 15 of equal mass.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
BINS = 15
SMALLEST = 1e-12  # probabilities are kept this far from 0 and 1


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


def ndcg(scores: Floats, grades: Integers, cutoff: int) -> float:
    """Tied candidates share the mean of their discounts, as in scikit-learn; nan without gains."""
    gains = np.exp2(grades) - 1.0
    discounts = 1 / np.log2(np.arange(2, len(grades) + 2))
    discounts[cutoff:] = 0
    ideal = float(np.sort(gains)[::-1] @ discounts)
    _, tied, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    sums = np.add.reduceat(discounts, counts.cumsum() - counts)
    return float(gains @ (sums / counts)[tied]) / ideal if ideal > 0 else float("nan")


def reciprocal_rank(scores: Floats, labels: Flags) -> float:
    """1 / rank of the first relevant candidate, its mean over all orders of tied candidates; 0
    without one.
    """
    if not labels.any():
        return 0.0
    best = scores[labels].max()
    above, tied = np.count_nonzero(scores > best), np.count_nonzero(scores == best)
    relevant = np.count_nonzero(labels & (scores == best))
    before = np.arange(tied - relevant + 1)  # of those tied, where the first relevant one stands
    missed = np.cumprod((tied - relevant - before[:-1]) / (tied - before[:-1]))
    chances = np.concatenate(([1.0], missed)) * relevant / (tied - before)
    return float((chances / (above + 1 + before)).sum())


def kendall_tau(first: Floats, second: Floats) -> float:
    """Tau-b, (concordant - discordant) / sqrt(untied pairs of each); nan where one is constant.

    Source: Kendall 1945, "The treatment of ties in ranking problems"; counted as by Knight 1966, "A
    computer method for calculating Kendall's tau with ungrouped data".
    """
    one, other = (np.unique(scores, return_inverse=True)[1] for scores in (first, second))
    both = one * len(other) + other
    pairs, ties, other_ties = len(both) * (len(both) - 1) // 2, _tied(one), _tied(other)
    untied = (pairs - ties) * (pairs - other_ties)
    discordant = _inversions(other[np.argsort(both)])
    balance = pairs - ties - other_ties + _tied(both) - 2 * discordant
    return balance / math.sqrt(untied) if untied else float("nan")


def _tied(levels: Integers) -> int:
    """Pairs on the same level."""
    counts = np.bincount(np.unique(levels, return_inverse=True)[1])
    return int((counts * (counts - 1) // 2).sum())


def _inversions(levels: Integers) -> int:
    """Pairs whose first one stands on a higher level than its second: told apart bit by bit, from
    the highest on, among those that are alike until there and still in their order.
    """
    found = 0
    for bit in reversed(range(int(levels.max(initial=0)).bit_length())):
        levels = levels[np.argsort(levels >> (bit + 1), kind="stable")]
        _, first, part = np.unique(levels >> (bit + 1), return_index=True, return_inverse=True)
        high = (levels >> bit) & 1
        before = high.cumsum() - high
        found += int((before - before[first][part])[high == 0].sum())
    return found


def losses(scores: Floats, labels: Flags) -> Floats:
    """Negative log-likelihood of each label, in nats."""
    clipped = np.clip(scores, SMALLEST, 1 - SMALLEST)
    return -np.where(labels, np.log(clipped), np.log1p(-clipped))


def divergences(teacher: Floats, student: Floats) -> Floats:
    """KL(teacher || student) of each pair's probability of yes against no, in nats."""
    p, q = (np.clip(scores, SMALLEST, 1 - SMALLEST) for scores in (teacher, student))
    terms: Floats = p * np.log(p / q) + (1 - p) * (np.log1p(-p) - np.log1p(-q))
    return terms


def equal_mass_bins(scores: Floats) -> Integers:
    """The bin of each score, 0 to 14; bins differ in size by one at most."""
    bins = np.empty(len(scores), dtype=np.int64)
    for number, part in enumerate(np.array_split(np.argsort(scores, kind="stable"), BINS)):
        bins[part] = number
    return bins


def calibration_curve(scores: Floats, labels: Flags) -> list[tuple[float, float, int]]:
    """(mean score, share of positives, pairs) of every bin that holds a pair."""
    bins = equal_mass_bins(scores)
    parts = [bins == number for number in range(BINS)]
    return [
        (float(scores[part].mean()), float(labels[part].mean()), int(part.sum()))
        for part in parts
        if part.any()
    ]
