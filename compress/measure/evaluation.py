"""A model's metrics on a split, scored as served, with intervals, slices and differences.

Knows no command line and nothing of training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from compress.data.requests import Request
from compress.measure.intervals import Interval, Scored, compare, measure
from compress.measure.metrics import calibration_curve, divergences
from compress.measure.scorers import DirectoryScorer, Scorer, scored_by
from compress.measure.slices import by_slice, worst

RESAMPLES = 1000
WORST_OF = "gauc"


def evaluate(
    scorer: Scorer,
    requests: Sequence[Request],
    names: Sequence[Mapping[str, str]] = (),
    resamples: int = RESAMPLES,
    against: Scorer | None = None,
) -> dict[str, Any]:
    """Metrics as {name: {value, low, high}}, and what they were counted on.

    names: the slices of each request, from `slice_names`; without them nothing is said of slices.
    against: another model, the paired differences to which are reported under the same name.
    """
    scored = scored_by(scorer, requests)
    report = bounds_of(measure(scored, resamples)) | _counts(scored) | _label_mass(scorer)
    scores = np.concatenate([item.scores for item in scored])
    labels = np.concatenate([item.labels for item in scored])
    report["calibration_curve"] = calibration_curve(scores, labels)
    if names:
        report |= slice_report(scored, names)
    if against:
        theirs = scored_by(against, requests)
        report["against"] = differences(scored, theirs, resamples) | {"digest": against.digest}
    return report | {"digest": scorer.digest}


def slice_report(scored: Sequence[Scored], names: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """`slices`: metrics of every slice; `worst`: by dimension, the slice of the lowest gauc."""
    slices = by_slice(scored, names)
    lowest = {dimension: worst(parts, WORST_OF) for dimension, parts in slices.items()}
    return {
        "slices": {
            dimension: {
                name: {metric: _or_null(value) for metric, value in part.items()}
                for name, part in parts.items()
            }
            for dimension, parts in slices.items()
        },
        "worst": {
            dimension: {"slice": found[0], WORST_OF: found[1]}
            for dimension, found in lowest.items()
            if found
        },
    }


def differences(
    scored: Sequence[Scored], against: Sequence[Scored], resamples: int
) -> dict[str, Any]:
    """Paired by group, ours less theirs, with how far the two disagree."""
    pairs = zip(against, scored, strict=True)
    apart = np.concatenate([divergences(one.scores, two.scores) for one, two in pairs])
    return bounds_of(compare(scored, against, resamples)) | {
        "kl_to_against_p99": float(np.percentile(apart, 99))
    }


def bounds_of(metrics: Mapping[str, Interval]) -> dict[str, Any]:
    """{name: {value, low, high}}, null where the data cannot define a metric."""
    return {
        name: {bound: _or_null(value) for bound, value in asdict(interval).items()}
        for name, interval in metrics.items()
    }


def _counts(scored: Sequence[Scored]) -> dict[str, int]:
    return {
        "requests": len(scored),
        "groups": len({item.request.group for item in scored}),
        "pairs": sum(len(item.scores) for item in scored),
        "positives": int(sum(item.labels.sum() for item in scored)),
    }


def _label_mass(scorer: Scorer) -> dict[str, Any]:
    """Of the candidates that the engine sampled."""
    sampled = scorer.drain_label_mass() if isinstance(scorer, DirectoryScorer) else []
    if not sampled:
        return {}
    return {"label_mass": {"mean": sum(sampled) / len(sampled), "samples": len(sampled)}}


def _or_null(value: float) -> float | None:
    """JSON has no nan; a metric that the data cannot define is null."""
    return None if math.isnan(value) else value
