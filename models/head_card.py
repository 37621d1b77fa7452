"""What a scoring head reads and what its number means. Knows no tensors and no tokenizer.

Every head gives one raw logit per candidate. With p the softmax over the head's outputs and g their
grades, scaled so that the lowest is 0 and the highest 1:

    raw_logit = logit(sum_k g[k] p[k])

which is logit(yes) - logit(no) for two labels. So its sigmoid is the expected grade between the
lowest and the highest, one number to sort by, and any calibration of a logit fits any head. A
single output of a classifier is a logit already.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from models.calibration import AnyCalibration, Calibration, calibration_from_json
from models.errors import ModelDirectoryError


@dataclass(frozen=True, slots=True)
class HeadCard:
    """Grades of either label tokens, by their text, or rows of a classification head, by number."""

    labels: Mapping[str, float] = field(default_factory=dict)
    classes: Mapping[str, float] = field(default_factory=dict)
    calibration: AnyCalibration = field(default_factory=Calibration)

    def __post_init__(self) -> None:
        if bool(self.labels) == bool(self.classes):
            raise ModelDirectoryError("a head grades either labels or classes; give one of them")
        for name, grade in self.grades.items():
            if type(grade) not in (int, float) or not math.isfinite(grade):
                raise ModelDirectoryError(f"grade of {name!r} is {grade!r}; give a finite number")
        if self.labels and len(self.labels) == 1:
            raise ModelDirectoryError(f"labels {list(self.labels)} need another to compare with")
        for name in self.classes:
            if not (isinstance(name, str) and name.isascii() and name.isdigit() and len(name) < 10):
                raise ModelDirectoryError(f"class {name!r} is no row; number rows from '0'")
        if len(self.grades) > 1 and self.lowest == self.highest:
            raise ModelDirectoryError(f"all grades are {self.lowest}; give at least two")

    @property
    def grades(self) -> Mapping[str, float]:
        """Grade of each output, in the order of the card."""
        return self.labels or self.classes

    @property
    def lowest(self) -> float:
        """The grade that a score of 0 means; a single output starts at 0."""
        return min(self.grades.values()) if len(self.grades) > 1 else 0.0

    @property
    def highest(self) -> float:
        """The grade that a score of 1 means."""
        return max(self.grades.values())

    @property
    def gains(self) -> tuple[float, ...]:
        """Grades scaled to [0, 1]; a single output has 1."""
        if len(self.grades) == 1:
            return (1.0,)
        span = self.highest - self.lowest
        return tuple((grade - self.lowest) / span for grade in self.grades.values())

    def grade(self, score: float) -> float:
        """The expected grade that a score in [0, 1] means."""
        return self.lowest + score * (self.highest - self.lowest)

    def to_json(self) -> dict[str, Any]:
        """Inverse of `from_json`."""
        outputs = {"labels": self.labels} if self.labels else {"classes": self.classes}
        return {name: dict(grades) for name, grades in outputs.items()} | {
            "calibration": asdict(self.calibration)
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> HeadCard:
        """Raises ModelDirectoryError, CalibrationError, TypeError or AttributeError."""
        calibration = raw.get("calibration")
        own = {} if calibration is None else {"calibration": calibration_from_json(calibration)}
        return cls(**{**raw, **own})


@dataclass(frozen=True, slots=True)
class HeadOutputs:
    """A head as a model computes it: rows of its output matrix, and the gain of each in [0, 1]."""

    name: str
    rows: tuple[int, ...]
    gains: tuple[float, ...]


def yes_no(label_ids: tuple[int, int]) -> tuple[HeadOutputs, ...]:
    """The one head of a model that answers with two tokens, (yes, no)."""
    return (HeadOutputs("score", label_ids, (1.0, 0.0)),)
