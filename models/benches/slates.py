"""Streams of slates whose candidates nobody has seen, random ones or the demo's. Knows no clock."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from models.benches.shapes import Shape
from models.benches.turns import Slate
from models.directory import ModelDirectory
from models.engines.base import ScoreJob


@dataclass(frozen=True, slots=True)
class GradedJob:
    """A request of the demo's data and the grade of each candidate, 0 to 4."""

    job: ScoreJob
    grades: tuple[int, ...]


def random_slates(shape: Shape, seed: int, warm: bool) -> Iterator[Slate]:
    """Of one context when warm, of a fresh one each when not."""
    stream = shape.jobs(seed, same_context=warm)
    while True:
        yield Slate(next(stream), next(stream).candidates[0])


def graded_jobs(directory: ModelDirectory, data: Path, split: str) -> list[GradedJob]:
    """All requests of a split of `onet_jobs`, rendered as the service renders them."""
    texts = {row["id"]: row["text"] for row in _rows(data / "items.jsonl.gz")}
    return [
        GradedJob(
            _job(directory, row["prefix"], [texts[item] for item in row["cand"]]),
            tuple(row["grade"]),
        )
        for row in _rows(data / f"{split}.jsonl.gz")
    ]


def demo_slates(graded: Sequence[GradedJob], step: int = 7) -> Iterator[Slate]:
    """The requests over and over, neighbours far apart: those of one occupation lie together."""
    jobs = [graded[index].job for start in range(step) for index in range(start, len(graded), step)]
    for index in cycle(range(len(jobs))):
        yield Slate(jobs[index], jobs[index - 1].candidates[0])


def _job(directory: ModelDirectory, context: str, candidates: Sequence[str]) -> ScoreJob:
    ids = directory.prompt.encode_context(context).ids
    encoded = directory.prompt.encode_candidates(candidates)
    hashes = directory.prompt.block_hashes(ids, directory.card.block_size)
    return ScoreJob(ids, hashes, tuple(candidate.ids for candidate in encoded))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)
