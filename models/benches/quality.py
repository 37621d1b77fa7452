"""How well and how alike providers rank. Knows no provider and no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from models.benches.rounds import largest_dp

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Quality:
    """Likeness to the reference in fp32, and ranking of graded slates; means over slates.

    The first four are of the slates that every provider scores, the others of all, for those few
    that score all.
    """

    max_abs_dp: float  # largest difference of a probability
    kendall_tau: float
    ndcg_10: float
    ndcg_1: float
    kendall_tau_all: float | None = None
    ndcg_10_all: float | None = None
    ndcg_1_all: float | None = None

    @classmethod
    def of(
        cls,
        logits: Sequence[Sequence[float]],
        truth: Sequence[Sequence[float]],
        grades: Sequence[Sequence[int]],
    ) -> Quality:
        """Of raw logits, a row a slate, against those of the reference."""
        pairs = list(zip(logits, truth, strict=True))
        return cls(
            max_abs_dp=round(max(largest_dp(own, other) for own, other in pairs), 6),
            kendall_tau=round(float(np.mean([kendall_tau(*pair) for pair in pairs])), 5),
            ndcg_10=round(mean_ndcg(logits, grades, 10), 5),
            ndcg_1=round(mean_ndcg(logits, grades, 1), 5),
        )

    def with_all(self, other: Quality) -> Quality:
        """This of a sample beside `other` of all slates."""
        return replace(
            self,
            kendall_tau_all=other.kendall_tau,
            ndcg_10_all=other.ndcg_10,
            ndcg_1_all=other.ndcg_1,
        )


def kendall_tau(some: Sequence[float], others: Sequence[float]) -> float:
    """tau-b: agreement of the orders of all pairs, ties in either counted for neither."""
    a, b = _order(some), _order(others)
    return float((a * b).sum() / np.sqrt((a != 0).sum() * (b != 0).sum()))


def ndcg(scores: Sequence[float], grades: Sequence[int], cutoff: int) -> float:
    """Gain 2^grade - 1, discount 1 / log2(rank + 1), ties in input order; nan without gains."""
    gains = np.exp2(np.asarray(grades)) - 1
    discounts = 1 / np.log2(np.arange(2, min(cutoff, len(gains)) + 2))
    ranked = gains[np.argsort(-np.asarray(scores), kind="stable")][:cutoff]
    ideal = np.sort(gains)[::-1][:cutoff] @ discounts
    return float(ranked @ discounts / ideal) if ideal > 0 else float("nan")


def mean_ndcg(
    logits: Sequence[Sequence[float]], grades: Sequence[Sequence[int]], cutoff: int
) -> float:
    """Over slates that have a gain."""
    values = [ndcg(row, own, cutoff) for row, own in zip(logits, grades, strict=True)]
    return float(np.nanmean(values))


def _order(values: Sequence[float]) -> Floats:
    """(n, n) signs of all differences."""
    row = np.asarray(values, np.float64)
    signs: Floats = np.sign(row[:, None] - row[None, :])
    return signs
