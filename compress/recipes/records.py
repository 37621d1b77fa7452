"""What a finished stage is on record for: its quality, size and speed. Knows no gates.

Quality repeats bit for bit and goes into the card; speed is of one machine and stands beside the
model in a hidden file, which its digest leaves out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from compress.data.requests import Request
from compress.measure.intervals import Scored, values
from compress.measure.metrics import calibration_curve
from compress.measure.scorers import SCORER_NAME, DirectoryScorer, Scorer, open_scorer, scored_by
from compress.measure.slices import by_slice
from compress.recipes.gates import Quality
from compress.stages.stage import StageError
from compress.stages.whole_files import write_json
from models.card import file_digest
from models.checkpoint import load_model_directory

MEASURED_NAME = ".measured.json"
DAMAGED = (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError)
SLATES = 30  # scored one by one for the latency


@dataclass(frozen=True, slots=True)
class Speed:
    """Of this machine: slates of the split's size, context and candidates never seen before."""

    items_per_s: float
    slate_ms: float  # median of one slate at a time


@dataclass(frozen=True, slots=True)
class Record:
    """One finished stage. `curve`: see `calibration_curve`; seconds: since its last start.

    folders: digests of the files in its directory's folders, which its card leaves out, by path.
    """

    name: str
    stage: str
    digest: str
    metrics: Mapping[str, float]
    slices: Mapping[str, Mapping[str, Mapping[str, float]]]
    curve: Sequence[Sequence[float]]
    parameters: int
    size: int  # bytes of the directory's files
    speed: Speed | None = None  # of a ranker
    seconds: float = 0.0
    losses: Sequence[float] = field(default_factory=tuple)
    folders: Mapping[str, str] = field(default_factory=dict)

    @property
    def quality(self) -> Quality:
        """What gates compare."""
        return Quality(self.metrics, self.slices)

    def write(self, path: Path) -> None:
        """As JSON, whole or not at all."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Record:
        """Inverse of `write`. Raises StageError for what is damaged or gone."""
        stage = path.with_suffix("")
        with _refused(path, f"it, and {stage} if that is there"):
            return cls.of(json.loads(path.read_text(encoding="utf-8")))

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Record:
        """From JSON. Raises one of DAMAGED for what is no record."""
        record = cls(**{**raw, "speed": Speed(**raw["speed"]) if raw["speed"] else None})
        bins = [value for point in record.curve for value in point]
        for numbers in (record.metrics.values(), record.losses, bins):
            if not all(type(number) in (int, float) for number in numbers):
                raise ValueError(f"{record.name!r} has a number that is none")
        return record


def ranker_record(
    name: str,
    stage: str,
    directory: Path,
    requests: Sequence[Request],
    slices: Sequence[Mapping[str, str]],
) -> Record:
    """Scores these requests with what a stage wrote."""
    scorer = open_scorer(directory)
    scored = scored_by(scorer, requests)
    scores = np.concatenate([item.scores for item in scored])
    labels = np.concatenate([item.labels for item in scored])
    return Record(
        name=name,
        stage=stage,
        digest=scorer.digest,
        metrics=_known(values(scored)),
        slices=_known_slices(scored, slices),
        curve=calibration_curve(scores, labels),
        parameters=_parameters(directory),
        size=_size(directory),
        speed=_speed(_fastest(directory), requests[:SLATES]),
    )


def writer_record(name: str, stage: str, directory: Path, metrics: Mapping[str, float]) -> Record:
    """Of a model that writes, whose stage measures it."""
    digest, size = load_model_directory(directory).digest, _size(directory)
    parameters = _parameters(directory)
    return Record(name, stage, digest, _known(metrics), {}, (), parameters, size)


def folder_digests(directory: Path) -> dict[str, str]:
    """Of the files in the directory's folders, by path in it."""
    paths = {path.relative_to(directory): path for path in sorted(directory.rglob("*"))}
    return {
        name.as_posix(): file_digest(path)
        for name, path in paths.items()
        if len(name.parts) > 1 and path.is_file()
    }


def write_records(path: Path, records: Sequence[Record]) -> None:
    """All stages of a run, in the order in which they ran."""
    write_json(path, {"stages": [asdict(record) for record in records]})


def read_records(path: Path) -> list[Record]:
    """Inverse of `write_records`. Raises StageError for what is damaged."""
    with _refused(path, "it, and do without what was measured,"):
        stages = json.loads(path.read_text(encoding="utf-8"))["stages"]
        return [Record.of(raw) for raw in stages]


@contextmanager
def _refused(path: Path, remove: str) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        raise StageError(
            f"{path}: cannot be read ({error!r}); remove {remove} and give the same command again"
        ) from error


def _known(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if value == value}


def _known_slices(
    scored: Sequence[Scored], names: Sequence[Mapping[str, str]]
) -> dict[str, dict[str, dict[str, float]]]:
    slices = by_slice(scored, names)
    return {
        dimension: {name: _known(part) for name, part in parts.items()}
        for dimension, parts in slices.items()
    }


def _size(directory: Path) -> int:
    """Bytes of the directory's own files but for hidden ones; data beside a model are not of it."""
    files = [path for path in directory.iterdir() if path.is_file()]
    return sum(path.stat().st_size for path in files if not path.name.startswith("."))


def _parameters(directory: Path) -> int:
    if (directory / SCORER_NAME).exists():
        stated = json.loads((directory / SCORER_NAME).read_text(encoding="utf-8"))
        return int(stated.get("parameters", 0))
    shapes = load_model_directory(directory).config.weight_shapes()
    return sum(int(np.prod(shape)) for shape in shapes.values())


def _fastest(directory: Path) -> Scorer:
    """A scorer whose caches are cold."""
    if (directory / SCORER_NAME).exists():
        return open_scorer(directory)
    return DirectoryScorer(load_model_directory(directory), backend="auto")


def _speed(scorer: Scorer, requests: Sequence[Request]) -> Speed:
    """The first slate warms up and does not count, unless it is the only one."""
    times = [_timed(partial(scorer.raw_logits, [request])) for request in requests]
    times = times[1:] or times
    items = sum(len(request.candidates) for request in requests[-len(times) :])
    return Speed(items / sum(times), 1000 * median(times))


def _timed(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin
