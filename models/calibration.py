"""Calibration: from a raw logit to a probability. Knows nothing of models or of metrics."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import CalibrationError
from models.isotonic import IsotonicCalibration, fit_isotonic

NEWTON_STEPS = 100
TOLERANCE = 1e-10


@dataclass(frozen=True, slots=True)
class Calibration:
    """score = sigmoid(scale * raw_logit + shift); scale > 0, so it never reorders a slate.

    kind: "platt", or "temperature", whose scale is 1 / temperature and whose shift is 0.
    """

    scale: float = 1.0
    shift: float = 0.0
    kind: str = "platt"

    def __post_init__(self) -> None:
        known = self.kind == "platt" or (self.kind == "temperature" and self.shift == 0)
        # Above it is infinity, or a whole number that no float holds.
        largest = sys.float_info.max
        if not known or not (0 < self.scale <= largest and abs(self.shift) <= largest):
            raise CalibrationError(
                f"calibration {self.kind!r} with scale {self.scale} and shift {self.shift} is not "
                "served; use kind 'platt', a finite scale above 0 and a finite shift, or kind "
                "'temperature' with shift 0"
            )

    def calibrate(self, raw_logit: float) -> float:
        """Probability in [0, 1] of the label yes."""
        return _sigmoid(self.scale * raw_logit + self.shift)


AnyCalibration = Calibration | IsotonicCalibration


def calibration_from_json(raw: Mapping[str, Any]) -> AnyCalibration:
    """Inverse of `dataclasses.asdict`. Raises CalibrationError or TypeError."""
    return IsotonicCalibration(**raw) if raw.get("kind") == "isotonic" else Calibration(**raw)


def fit_platt(raw_logits: Sequence[float], labels: Sequence[float]) -> Calibration:
    """Maximum likelihood fit on held-out logits and labels in [0, 1], with Platt's soft targets.

    Raises CalibrationError when a class is missing or when higher logits mean fewer positives.
    Source: Platt 1999, "Probabilistic outputs for support vector machines", section 2.2.
    """
    x = np.asarray(raw_logits, dtype=np.float64)
    targets = _soft_targets(labels)
    # Standardised logits keep Newton's 2x2 system well conditioned at any scale of the model.
    spread = float(x.std()) or 1.0
    design = np.stack(((x - x.mean()) / spread, np.ones_like(x)), axis=1)
    slope, intercept = _newton(design, targets)
    scale = _rising(slope) / spread
    return Calibration(scale=scale, shift=intercept - scale * float(x.mean()))


def fit_temperature(raw_logits: Sequence[float], labels: Sequence[float]) -> Calibration:
    """The same with no shift: one number, for few labels or logits that are centred already.

    Source: Guo et al. 2017, arXiv 1706.04599, section 4.2.
    """
    x = np.asarray(raw_logits, dtype=np.float64)
    spread = float(np.sqrt((x**2).mean())) or 1.0
    (slope,) = _newton(x[:, None] / spread, _soft_targets(labels))
    return Calibration(scale=_rising(slope) / spread, kind="temperature")


@dataclass(frozen=True, slots=True)
class CalibrationKind:
    """How one kind is fitted, and the fewest labels of each class that it needs."""

    fit: Callable[[Sequence[float], Sequence[float]], AnyCalibration]
    fewest: int


# A curve of free points follows noise where two parameters still average over it.
KINDS = {
    "temperature": CalibrationKind(fit_temperature, 10),
    "platt": CalibrationKind(fit_platt, 20),
    "isotonic": CalibrationKind(fit_isotonic, 200),
}


def fit_calibration(
    kind: str, raw_logits: Sequence[float], labels: Sequence[float]
) -> AnyCalibration:
    """Fits one of `KINDS`; labels are graded from 0 to 1.

    Raises CalibrationError for another kind, for too few labels, for logits that are not finite,
    and as the fits do.
    """
    if kind not in KINDS:
        raise CalibrationError(f"calibration {kind!r} is unknown; use one of {', '.join(KINDS)}")
    if not all(map(math.isfinite, raw_logits)):
        raise CalibrationError("a held-out logit is not finite; check the model's weights")
    refuse_few_labels(kind, labels)
    return KINDS[kind].fit(raw_logits, labels)


def refuse_few_labels(kind: str, labels: Sequence[float]) -> None:
    """Raises CalibrationError for fewer labels of a class than this one of `KINDS` needs."""
    positives = sum(labels)
    scarce, fewest = min(positives, len(labels) - positives), KINDS[kind].fewest
    if scarce < fewest:
        raise CalibrationError(
            f"calibration {kind!r} needs {fewest} labels of each class, and the rarer one has "
            f"{scarce:g}; give more held-out requests or a kind with fewer parameters"
        )


def _soft_targets(labels: Sequence[float]) -> NDArray[np.float64]:
    """Platt's: they keep the optimum finite on separable data."""
    y = np.asarray(labels, dtype=np.float64)
    positives = float(y.sum())
    if positives in (0, len(y)):
        raise CalibrationError("calibration needs both classes; give more held-out requests")
    high, low = (positives + 1) / (positives + 2), 1 / (len(y) - positives + 2)
    return low * (1 - y) + high * y


def _rising(slope: float) -> float:
    if slope <= 0:
        raise CalibrationError("higher logits mean fewer positives; swap the labels or train on")
    return slope


def _newton(design: NDArray[np.float64], targets: NDArray[np.float64]) -> list[float]:
    """Minimises the cross-entropy of sigmoid(design @ theta), halving steps that go uphill."""
    width = design.shape[1]
    theta = np.zeros(width)
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(-design @ theta))
        gradient = design.T @ (p - targets)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 1e-12 * np.eye(width)
        step = np.linalg.solve(hessian, gradient)
        while _loss(design @ (theta - step), targets) > _loss(design @ theta, targets) + TOLERANCE:
            step = step / 2
        theta = theta - step
        if np.abs(step).max() < TOLERANCE:
            break
    return [float(value) for value in theta]


def _loss(z: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    """Sum of softplus(z) - target z: cross-entropy without overflow."""
    return float((np.logaddexp(0, z) - targets * z).sum())


def _sigmoid(z: float) -> float:
    """Stable on both sides: exp never sees a positive argument."""
    small = math.exp(-abs(z))
    return 1 / (1 + small) if z >= 0 else small / (1 + small)
