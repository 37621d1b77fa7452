"""What engines said of themselves lately, and the alarm when the model does not answer its labels.

Knows nothing of requests. A model that puts its probability on other words than its labels still
has a difference between them to score by, so nothing but this tells.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Container, Mapping
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry

from models.card import ModelCard
from service.jobs.engine_report import decode_report
from service.jobs.payload_bytes import PayloadError
from service.metrics import series

logger = logging.getLogger("fairslate.engines")

LABEL_MASS_FLOOR = 0.95
SAMPLES = 512
WARNING_SECONDS = 60.0
_MASS = f"Mean probability on the model's labels, of the last {SAMPLES} candidates sampled."
_ALARM = f"1 while that is below {LABEL_MASS_FLOOR}."


class EngineBoard:
    """One per API process.

    calibrated_mass: mean label mass of the split that the model was calibrated on, None if nobody
    measured it. A model that was below the floor even then has learnt the difference of its labels
    and nothing else: its mass is shown, and no alarm is made of it.
    """

    def __init__(
        self,
        calibrated_mass: float | None = None,
        registry: CollectorRegistry = REGISTRY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        answers = calibrated_mass is None or calibrated_mass >= LABEL_MASS_FLOOR
        self._floor = LABEL_MASS_FLOOR if answers else None
        self._clock = clock
        self._warned = -math.inf
        self._descriptions: dict[str, Mapping[str, str]] = {}
        self._samples: deque[float] = deque(maxlen=SAMPLES)
        self._mass = series.gauge(registry, "label_mass", _MASS)
        self._alarm = series.gauge(registry, "label_mass_alarm", _ALARM)

    @property
    def label_mass(self) -> float | None:
        """Mean of the last samples, None before the first."""
        return math.fsum(self._samples) / len(self._samples) if self._samples else None

    @property
    def alarm(self) -> bool:
        """Whether the model does not answer with its labels, though it should."""
        mass = self.label_mass
        return self._floor is not None and mass is not None and mass < self._floor

    def hear(self, payload: bytes) -> None:
        """Takes a report in; one that cannot be read spoils no answer."""
        try:
            report = decode_report(payload)
        except PayloadError as error:
            logger.warning("%s", error)
            return
        self._descriptions[report.worker] = report.description
        if report.label_mass:
            self._samples.extend(report.label_mass)
            self._mass.set(self.label_mass or 0.0)
            self._alarm.set(self.alarm)
            self._warn()

    def forget_all_but(self, workers: Container[str]) -> None:
        """Drops the engines that have left the pool."""
        kept = {name: one for name, one in self._descriptions.items() if name in workers}
        self._descriptions = kept

    def describe(self) -> dict[str, Any]:
        """For `GET /v1/models`: how many engines compute in which way, and the label mass."""
        kinds = Counter(tuple(sorted(kind.items())) for kind in self._descriptions.values())
        return {
            "engines": [{"count": count, **dict(kind)} for kind, count in kinds.items()],
            "label_mass": {
                "mean": self.label_mass,
                "samples": len(self._samples),
                "floor": self._floor,
                "alarm": self.alarm,
            },
        }

    def _warn(self) -> None:
        now = self._clock()
        if self.alarm and now - self._warned >= WARNING_SECONDS:
            self._warned = now
            logger.warning(
                "the model puts %.1f %% of its probability on its labels, below %.0f %%: its "
                "scores may mean nothing; check the prompt's template and the labels of its card",
                100 * (self.label_mass or 0.0),
                100 * LABEL_MASS_FLOOR,
            )


def calibrated_label_mass(card: ModelCard) -> float | None:
    """What the card says of the split that the model was calibrated on, if it says anything."""
    recorded = card.metrics.get("label_mass")
    return None if recorded is None else float(recorded["mean"])
