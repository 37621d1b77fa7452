"""What a run on a lent GPU does within its seconds. Knows nothing of how."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.encoders.teacher_steps import TeacherRates
from compress.students.student_steps import StudentRates


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a small dress rehearsal makes smaller."""

    seconds: float
    seed: int = 7
    plain_worlds: int = 240
    mixed_worlds: int = 160
    workers: int = 14
    joint_slates: int = 64
    student_slates: int = 128
    candidates: int = 24
    inverted_share: float = 0.25
    chunk: int = 512
    tower_rates: TeacherRates = field(default_factory=TeacherRates)
    joint_rates: TeacherRates = field(default_factory=TeacherRates)
    joint_weights: tuple[float, ...] = (0.3, 0.5, 0.7, 1.0)
    bag_rates: tuple[float, ...] = (1e-3, 4e-3)
    full_rates: StudentRates = field(default_factory=lambda: StudentRates(2e-4, 7e-4))
    layers: tuple[int, ...] = (3, 4)
    shares_kept: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    common_words: int = 16000
    minimum_count: int = 3
    encoder_layers: int | None = None
    valid_requests: int | None = None
    evaluate_every: float = 9.0
    reserve: float = 8.0
    towers_share: float = 0.12
    joint_share: float = 0.30
    labels_share: float = 0.12
    bags_share: float = 0.05
    full_share: float = 0.12
    resume: Path | None = None  # OUT of an earlier run, whose student goes on from its labels


RESUMED: dict[str, Any] = {
    "layers": (3,),
    "full_rates": StudentRates(4e-4, 1e-3),
    "full_share": 1.0,
    "shares_kept": (1.0, 0.8, 0.6),
}
TINY: dict[str, Any] = {
    "plain_worlds": 2,
    "mixed_worlds": 2,
    "workers": 1,
    "joint_slates": 4,
    "student_slates": 8,
    "chunk": 64,
    "encoder_layers": 1,
    "valid_requests": 10,
    "evaluate_every": 2.0,
    "reserve": 1.0,
    "common_words": 2000,
    "minimum_count": 50,
}
