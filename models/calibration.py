"""Platt calibration: from a raw logit to a probability. Knows nothing of models or of metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.errors import CalibrationError

NEWTON_STEPS = 100
TOLERANCE = 1e-10


@dataclass(frozen=True, slots=True)
class Calibration:
    """score = sigmoid(scale * raw_logit + shift); scale > 0, so it never reorders a slate."""

    scale: float = 1.0
    shift: float = 0.0
    kind: str = "platt"

    def __post_init__(self) -> None:
        if self.kind != "platt" or not (0 < self.scale < math.inf and math.isfinite(self.shift)):
            raise CalibrationError(
                f"calibration {self.kind!r} with scale {self.scale} and shift {self.shift} is not "
                "served; use kind 'platt', a finite scale above 0 and a finite shift"
            )

    def calibrate(self, raw_logit: float) -> float:
        """Probability in [0, 1] of the label yes."""
        return _sigmoid(self.scale * raw_logit + self.shift)


def fit_platt(raw_logits: Sequence[float], labels: Sequence[int]) -> Calibration:
    """Maximum likelihood fit on held-out logits and 0/1 labels, with Platt's (1999) soft targets.

    Raises CalibrationError when a class is missing or when higher logits mean fewer positives.
    """
    x = np.asarray(raw_logits, dtype=np.float64)
    y = np.asarray(labels, dtype=np.float64)
    positives = int(y.sum())
    if positives in (0, len(y)):
        raise CalibrationError("calibration needs both classes; give more held-out requests")
    # Soft targets keep the optimum finite on separable data.
    targets = np.where(y > 0, (positives + 1) / (positives + 2), 1 / (len(y) - positives + 2))
    # Standardised logits keep Newton's 2x2 system well conditioned at any scale of the model.
    spread = float(x.std()) or 1.0
    slope, intercept = _newton((x - x.mean()) / spread, targets)
    if slope <= 0:
        raise CalibrationError("higher logits mean fewer positives; swap the labels or train on")
    scale = slope / spread
    return Calibration(scale=scale, shift=intercept - scale * float(x.mean()))


def _newton(x: NDArray[np.float64], targets: NDArray[np.float64]) -> tuple[float, float]:
    """Minimises the cross-entropy of sigmoid(slope x + intercept), halving steps that go uphill."""
    design = np.stack((x, np.ones_like(x)), axis=1)
    theta = np.zeros(2)
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(-design @ theta))
        gradient = design.T @ (p - targets)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 1e-12 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        while _loss(design @ (theta - step), targets) > _loss(design @ theta, targets) + TOLERANCE:
            step = step / 2
        theta = theta - step
        if np.abs(step).max() < TOLERANCE:
            break
    return float(theta[0]), float(theta[1])


def _loss(z: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    """Sum of softplus(z) - target z: cross-entropy without overflow."""
    return float((np.logaddexp(0, z) - targets * z).sum())


def _sigmoid(z: float) -> float:
    """Stable on both sides: exp never sees a positive argument."""
    small = math.exp(-abs(z))
    return 1 / (1 + small) if z >= 0 else small / (1 + small)
