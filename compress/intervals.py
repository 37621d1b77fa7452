"""Metrics of scored requests with bootstrap intervals over groups. Knows no models or files.

gauc is the plain mean over requests with both classes, uauc the plain mean over users with both,
and requests without gains are left out of NDCG.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compress.data import Request
from compress.metrics import POOLED, Flags, Floats, auc, ndcg, reciprocal_rank

CUTOFFS = (1, 5, 10)


@dataclass(frozen=True, slots=True)
class Scored:
    """One request with its calibrated probabilities, (candidates,)."""

    request: Request
    scores: Floats

    @property
    def labels(self) -> Flags:
        """(candidates,) relevant or not."""
        return np.array(self.request.relevant)


@dataclass(frozen=True, slots=True)
class Interval:
    """A metric on all data, and the 2.5 and 97.5 percentiles of its bootstrap."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class _Group:
    """All requests of one occupation or user: its pairs, and its per-request metrics."""

    scores: Floats
    labels: Flags
    per_request: dict[str, Floats]


def measure(scored: Sequence[Scored], resamples: int, seed: int = 0) -> dict[str, Interval]:
    """All metrics; resamples whole groups with replacement, `uauc` only where users are known."""
    members: dict[str, list[Scored]] = defaultdict(list)
    for item in scored:
        members[item.request.group].append(item)
    with_users = all(item.request.by_user for item in scored)
    groups = [_group(items, with_users) for items in members.values()]
    value = _summarise(groups)
    chosen = np.random.default_rng(seed).integers(len(groups), size=(resamples, len(groups)))
    draws = [_summarise([groups[index] for index in row]) for row in chosen]
    return {
        name: Interval(value[name], *_percentiles([draw[name] for draw in draws])) for name in value
    }


def _group(items: Sequence[Scored], with_users: bool) -> _Group:
    scores = np.concatenate([item.scores for item in items])
    labels = np.concatenate([item.labels for item in items])
    values: dict[str, list[float]] = defaultdict(list)
    if with_users:
        values["uauc"].append(auc(scores, labels))
    for item in items:
        values["gauc"].append(auc(item.scores, item.labels))
        values["mrr"].append(reciprocal_rank(item.scores, item.labels))
        for cutoff in CUTOFFS:
            gain = ndcg(item.scores, np.array(item.request.grades), cutoff)
            values[f"ndcg@{cutoff}"].append(gain)
    return _Group(scores, labels, {name: np.array(kept) for name, kept in values.items()})


def _summarise(groups: Sequence[_Group]) -> dict[str, float]:
    scores = np.concatenate([group.scores for group in groups])
    labels = np.concatenate([group.labels for group in groups])
    summary = {name: metric(scores, labels) for name, metric in POOLED.items()}
    means = {
        name: _mean(np.concatenate([group.per_request[name] for group in groups]))
        for name in groups[0].per_request
    }
    return summary | means


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _percentiles(draws: Sequence[float]) -> tuple[float, float]:
    """A resample without both classes has no AUC and is left out."""
    known: npt.NDArray[np.float64] = np.array([draw for draw in draws if not np.isnan(draw)])
    if len(known) == 0:
        return float("nan"), float("nan")
    low, high = np.percentile(known, (2.5, 97.5))
    return float(low), float(high)
