"""Figures of training runs that are kept, each computed from its arms. Knows nothing of models.

One file of compress/results/runs is one figure. Its value is computed from its arms, each a kind of
model, measured on the same data; the manifest names every model and how it was made.
`compress.keep_run` measures them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from models.errors import FairslateError

RUNS = Path(__file__).parents[1] / "results" / "runs"
Arms = Mapping[str, float]


class KeptRunError(FairslateError):
    """A kept run that cannot be read, or lacks an arm of its figure."""

    code = "kept_run_invalid"


@dataclass(frozen=True, slots=True)
class Figure:
    """How a figure follows from its arms. strict: the whole interval has to be above the target.

    pair: the arms whose paired difference is the figure's interval.
    """

    arms: tuple[str, ...]
    value: Callable[[Arms], float]
    target: float
    pair: tuple[str, str]
    strict: bool = False


def _share(regained: float, lost: float) -> float:
    if lost <= 0:
        raise KeptRunError("the pruned arm lost nothing to the dense one; keep a run where it does")
    return regained / lost


FIGURES = {
    "kd_minus_sft_auc": Figure(
        ("kd", "sft"), lambda arm: arm["kd"] - arm["sft"], 0.0, ("kd", "sft"), strict=True
    ),
    "recovered_share": Figure(
        ("dense", "pruned", "recovered"),
        lambda arm: _share(arm["recovered"] - arm["pruned"], arm["dense"] - arm["pruned"]),
        0.90,
        ("recovered", "pruned"),
    ),
    "allocated_recovered_share": Figure(
        ("dense", "pruned", "allocated"),
        lambda arm: _share(arm["allocated"] - arm["pruned"], arm["dense"] - arm["pruned"]),
        0.90,
        ("allocated", "pruned"),
    ),
    "gradual_minus_oneshot": Figure(
        ("gradual", "oneshot"),
        lambda arm: arm["gradual"] - arm["oneshot"],
        0.0,
        ("gradual", "oneshot"),
    ),
}


@dataclass(frozen=True, slots=True)
class KeptRun:
    """arms: the metric of each, a mean over its models. low, high: 95 % of the paired difference.

    manifest: by arm, of every model its digest and lineage. machine, note: how and where it ran.
    """

    figure: str
    metric: str
    split: str
    data: str  # digest
    arms: Arms
    low: float
    high: float
    manifest: Mapping[str, Sequence[Mapping[str, Any]]]
    machine: str
    note: str

    def __post_init__(self) -> None:
        if self.figure not in FIGURES:
            raise KeptRunError(f"figure {self.figure!r} is none of {', '.join(FIGURES)}")
        missing = [arm for arm in FIGURES[self.figure].arms if arm not in self.arms]
        if missing:
            raise KeptRunError(f"{self.figure} needs the arms {', '.join(missing)}; keep it again")

    @property
    def value(self) -> float:
        """The figure."""
        return FIGURES[self.figure].value(self.arms)

    @property
    def target(self) -> float:
        """What the figure is held against."""
        return FIGURES[self.figure].target

    @property
    def met(self) -> bool:
        """Whether the target is."""
        figure = FIGURES[self.figure]
        return self.low > figure.target if figure.strict else self.value >= figure.target


def read_runs(folder: Path = RUNS) -> list[KeptRun]:
    """In the order of their files' names. Raises KeptRunError."""
    return [_read(path) for path in sorted(folder.glob("*.json"))]


def _read(path: Path) -> KeptRun:
    try:
        return KeptRun(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        known = ", ".join(item.name for item in fields(KeptRun))
        raise KeptRunError(f"{path}: cannot be read ({error}); its fields are {known}") from error
