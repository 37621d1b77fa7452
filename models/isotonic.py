"""Isotonic calibration: a rising curve through measured points. Knows nothing of models."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from models.errors import CalibrationError


@dataclass(frozen=True, slots=True)
class IsotonicCalibration:
    """Linear between the points (raw_logits[i], scores[i]), level outside them.

    It never reorders a slate, but it may tie: whoever sorts must sort by the raw logit.
    """

    raw_logits: tuple[float, ...]
    scores: tuple[float, ...]
    kind: str = "isotonic"

    def __post_init__(self) -> None:
        # A card's JSON has lists; the digest of a frozen card wants tuples.
        for name in ("raw_logits", "scores"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.kind != "isotonic" or not self._rises():
            raise CalibrationError(
                f"calibration {self.kind!r} with {len(self.raw_logits)} points is not served; use "
                "kind 'isotonic', finite raw_logits that rise and scores from 0 to 1 that do not "
                "fall, as many of one as of the other"
            )

    def calibrate(self, raw_logit: float) -> float:
        """Probability in [0, 1]."""
        right = bisect_right(self.raw_logits, raw_logit)
        if right in (0, len(self.raw_logits)):
            return self.scores[max(0, right - 1)]
        start, stop = self.raw_logits[right - 1 : right + 1]
        low, high = self.scores[right - 1 : right + 1]
        # The minimum keeps rounding from passing the next point.
        return min(high, low + (high - low) * ((raw_logit - start) / (stop - start)))

    def _rises(self) -> bool:
        x, y = self.raw_logits, self.scores
        if not x or len(x) != len(y) or not all(map(math.isfinite, (*x, *y))):
            return False
        rising = all(left < right for left, right in pairwise(x))
        return rising and all(0 <= left <= right <= 1 for left, right in pairwise((0.0, *y, 1.0)))


def fit_isotonic(raw_logits: Sequence[float], labels: Sequence[float]) -> IsotonicCalibration:
    """Least squares fit of a rising curve to labels in [0, 1], by pooling adjacent violators.

    Raises CalibrationError when higher logits do not mean more positives anywhere.
    Scores stay 1 / (n + 2) away from 0 and 1: n labels cannot show that something never happens.
    Source: Ayer et al. 1955, "An empirical distribution function for sampling with incomplete
    information", section 2.
    """
    x, inverse, counts = np.unique(raw_logits, return_inverse=True, return_counts=True)
    sums = np.bincount(inverse, weights=np.asarray(labels, dtype=np.float64))
    blocks: list[tuple[float, float, float, float]] = []  # first logit, last logit, sum, count
    for logit, total, count in zip(x.tolist(), sums.tolist(), counts.tolist(), strict=True):
        first, last = logit, logit
        while blocks and blocks[-1][2] * count >= total * blocks[-1][3]:
            first, _, earlier, more = blocks.pop()
            total, count = total + earlier, count + more
        blocks.append((first, last, total, count))
    if len(blocks) < 2:
        raise CalibrationError("higher logits mean fewer positives; swap the labels or train on")
    edge = 1 / (len(raw_logits) + 2)
    curve = {end: _clip(b[2] / b[3], edge) for b in blocks for end in b[:2]}
    return IsotonicCalibration(tuple(curve), tuple(curve.values()))


def _clip(value: float, edge: float) -> float:
    return min(max(value, edge), 1 - edge)
