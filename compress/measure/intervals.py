"""Metrics of scored requests with bootstrap intervals over groups. Knows no models or files.

gauc is the plain mean over requests with both classes, uauc the plain mean over users with both,
and requests without gains are left out of NDCG. A resample says how often each group was drawn,
(resamples, groups); every metric is computed for all resamples at once, so that thousands cost
little. normalised_entropy is the log-loss over that of always answering the share of positives (He
et al. 2014, "Practical lessons from predicting clicks on ads at Facebook", 2.1). ece: over bins of
equal mass, which are those of the whole data in every resample.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compress.data.requests import Request
from compress.measure.metrics import (
    BINS,
    Flags,
    Floats,
    Integers,
    auc,
    divergences,
    equal_mass_bins,
    kendall_tau,
    losses,
    ndcg,
    reciprocal_rank,
)
from models.errors import FairslateError

CUTOFFS = (1, 5, 10)


class ComparisonError(FairslateError):
    """Two models were not scored on the same requests."""

    code = "not_comparable"


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


def measure(scored: Sequence[Scored], resamples: int, seed: int = 0) -> dict[str, Interval]:
    """All metrics; resamples whole groups with replacement, `uauc` only where users are known."""
    draws = _draws(_groups(scored), resamples, seed)
    return {name: _interval(values) for name, values in _summaries(scored, draws).items()}


def values(scored: Sequence[Scored]) -> dict[str, float]:
    """All metrics without intervals."""
    return {name: interval.value for name, interval in measure(scored, 0).items()}


def compare(
    scored: Sequence[Scored], against: Sequence[Scored], resamples: int, seed: int = 0
) -> dict[str, Interval]:
    """Every metric's difference to that of another model, both on the same resampled groups.

    Besides, how much the two agree: `kendall_tau`, the mean over requests, and `kl_to_against`,
    the mean over pairs in nats of KL(against || scored). Raises ComparisonError.
    """
    if [item.request for item in scored] != [item.request for item in against]:
        raise ComparisonError("the two were scored on different requests; use one data set")
    groups = _groups(scored)
    draws = _draws(groups, resamples, seed)
    ours, theirs = (_summaries(side, draws) for side in (scored, against))
    agreement = _Means(groups, draws)
    pairs = list(zip(scored, against, strict=True))
    agreement.add("kendall_tau", [[kendall_tau(a.scores, b.scores)] for a, b in pairs])
    agreement.add("kl_to_against", [divergences(b.scores, a.scores) for a, b in pairs])
    differences = {name: ours[name] - theirs[name] for name in ours}
    return {n: _interval(v) for n, v in (differences | agreement.by_name).items()}


def mean_difference(
    pairs: Sequence[tuple[Sequence[Scored], Sequence[Scored]]], resamples: int, seed: int = 0
) -> dict[str, Interval]:
    """Every metric's difference, the mean over several pairs of models (seeds, say) on one data."""
    draws = _draws(_groups(pairs[0][0]), resamples, seed)
    sides = [[_summaries(side, draws) for side in pair] for pair in pairs]
    return {
        name: _interval(np.mean([ours[name] - theirs[name] for ours, theirs in sides], axis=0))
        for name in sides[0][0]
    }


def _groups(scored: Sequence[Scored]) -> Integers:
    """The number of each request's group."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(item.request.group, len(known)) for item in scored])


def _draws(groups: Integers, resamples: int, seed: int) -> Floats:
    """How often each group counts, (1 + resamples, groups); the first row is the data as it is."""
    count = int(groups.max()) + 1
    random = np.random.default_rng(seed)
    chosen = random.multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.concatenate((np.ones((1, count)), chosen))


class _Means:
    """Means over requests, groups or pairs of what is known, for all draws at once."""

    def __init__(self, groups: Integers, draws: Floats) -> None:
        self._groups, self._draws = groups, draws
        self.by_name: dict[str, Floats] = {}

    def add(self, name: str, by_request: Sequence[Sequence[float] | Floats]) -> None:
        """A metric from its values in every request."""
        sizes = [len(values) for values in by_request]
        flat = np.concatenate([np.asarray(values, dtype=np.float64) for values in by_request])
        self.by_name[name] = _mean(flat, np.repeat(self._groups, sizes), self._draws)


def _summaries(scored: Sequence[Scored], draws: Floats) -> dict[str, Floats]:
    """Every metric of every draw."""
    means = _Means(_groups(scored), draws)
    for name, by_request in _by_request(scored).items():
        means.add(name, by_request)
    return means.by_name | _pooled(scored, draws)


def _pooled(scored: Sequence[Scored], draws: Floats) -> dict[str, Floats]:
    """What is computed of all pairs together."""
    scores = np.concatenate([item.scores for item in scored])
    labels = np.concatenate([item.labels for item in scored])
    members = np.repeat(_groups(scored), [len(item.scores) for item in scored])
    share = _mean(labels.astype(np.float64), members, draws)
    summaries = {
        "auc": _pooled_auc(scores, labels, members, draws),
        "logloss": _mean(losses(scores, labels), members, draws),
        "brier": _mean((scores - labels) ** 2, members, draws),
        "ece": _calibration_error(scores, labels, members, draws),
    }
    summaries["normalised_entropy"] = summaries["logloss"] / _entropy(share)
    if all(item.request.by_user for item in scored):
        users = np.arange(draws.shape[1])
        summaries["uauc"] = _mean(_auc_by_group(scores, labels, members), users, draws)
    return summaries


def _auc_by_group(scores: Floats, labels: Flags, members: Integers) -> Floats:
    """(groups,) of all pairs of each group; members: the number of each pair's group, all used."""
    order = np.argsort(members, kind="stable")
    ends = np.bincount(members).cumsum()[:-1]
    parts = zip(np.split(scores[order], ends), np.split(labels[order], ends), strict=True)
    return np.array([auc(own, relevant) for own, relevant in parts])


def _by_request(scored: Sequence[Scored]) -> dict[str, list[list[float]]]:
    by_name: dict[str, list[list[float]]] = defaultdict(list)
    for item in scored:
        by_name["gauc"].append([auc(item.scores, item.labels)])
        by_name["mrr"].append([reciprocal_rank(item.scores, item.labels)])
        for cutoff in CUTOFFS:
            gain = ndcg(item.scores, np.array(item.request.grades), cutoff)
            by_name[f"ndcg@{cutoff}"].append([gain])
    return by_name


def _mean(values: Floats, groups: Integers, draws: Floats) -> Floats:
    """Of the known values, (draws,); nan where a draw holds none."""
    known, count = ~np.isnan(values), draws.shape[1]
    sums = np.bincount(groups[known], values[known], count)
    sizes = np.bincount(groups[known], minlength=count).astype(np.float64)
    with np.errstate(invalid="ignore"):
        means: Floats = (draws @ sums) / (draws @ sizes)
    return means


def _pooled_auc(scores: Floats, labels: Flags, members: Integers, draws: Floats) -> Floats:
    """AUC over all pairs of each draw, from the mass of each class at every distinct score."""
    distinct, levels = np.unique(scores, return_inverse=True)
    size = len(distinct)
    answers = np.empty(len(draws))
    for index, draw in enumerate(draws):
        weights = draw[members]
        yes = np.bincount(levels[labels], weights[labels], size)
        no = np.bincount(levels[~labels], weights[~labels], size)
        total = yes.sum() * no.sum()
        won = yes @ (no.cumsum() - no / 2)
        answers[index] = won / total if total else np.nan
    return answers


def _calibration_error(scores: Floats, labels: Flags, members: Integers, draws: Floats) -> Floats:
    """(draws,) mean over bins of |mean score - share relevant|, weighted by what a bin holds."""
    bins, count = equal_mass_bins(scores), draws.shape[1]
    gaps = np.bincount(members * BINS + bins, scores - labels, count * BINS)
    errors: Floats = np.abs(draws @ gaps.reshape(count, BINS)).sum(axis=1)
    return errors / (draws @ np.bincount(members, minlength=count))


def _entropy(share: Floats) -> Floats:
    """Of a coin that shows 1 with this share, in nats; nan where there is one class only."""
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy: Floats = -(share * np.log(share) + (1 - share) * np.log1p(-share))
    return entropy


def _interval(draws: Floats) -> Interval:
    """The first draw's value; a resample without both classes has no AUC and is left out."""
    known = draws[1:][~np.isnan(draws[1:])]
    if len(known) == 0:
        return Interval(float(draws[0]), float("nan"), float("nan"))
    low, high = np.percentile(known, (2.5, 97.5))
    return Interval(float(draws[0]), float(low), float(high))
