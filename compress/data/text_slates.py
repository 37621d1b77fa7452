"""Draws slates as texts, for teachers of any tokenizer. Knows nothing of tokens or weights.

What a step draws is a function of (seed, step) alone, so a resumed run sees the same slates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from compress.data.generate import slate
from compress.data.requests import (
    RELEVANT,
    Occupation,
    Request,
    load_occupations,
    load_relations,
    load_requests,
)
from compress.data.world_texts import WorldTexts
from compress.stages.parallel import share

MEMBER_TO_JOBS, JOB_TO_MEMBERS = "member_to_jobs", "job_to_members"


@dataclass(frozen=True, slots=True)
class TextSlates:
    """S contexts with C candidates each, and what the data say of them."""

    contexts: list[str]
    candidates: list[list[str]]
    grades: npt.NDArray[np.int64]  # (S, C)
    prompt: str | None  # None is the card's default

    def share(self) -> TextSlates:
        """Those of this process, among those that torchrun started."""
        ours = list(share(range(len(self.contexts))))
        return TextSlates(
            [self.contexts[row] for row in ours],
            [self.candidates[row] for row in ours],
            self.grades[ours],
            self.prompt,
        )


class TextSlateSource(Protocol):
    """Endless slates by step."""

    def draw(self, step: int, count: int, width: int) -> TextSlates:
        """`count` slates of `width` candidates, or as many as the shortest has."""


def labelled_requests(data: Path, share: float) -> list[Request]:
    """Requests of `train` of about this share of its groups, the same ones for every seed."""
    requests = load_requests(data, "train")
    return [request for request in requests if _place(request.group) < share]


def _place(group: str) -> float:
    """From 0 to below 1, by the group's name alone: a larger share holds every smaller one."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[1:5]) / 2**32


@dataclass(frozen=True)
class RequestSlates:
    """Recorded requests, drawn without repetition within a step; always the default prompt."""

    requests: Sequence[Request]
    seed: int

    @classmethod
    def load(cls, data: Path, seed: int, share: float = 1.0) -> RequestSlates:
        """The requests of `train`, or a share of them as in `labelled_requests`."""
        return cls(labelled_requests(data, share), seed)

    def draw(self, step: int, count: int, width: int) -> TextSlates:
        random = np.random.default_rng([self.seed, 2, step])
        rows = random.choice(len(self.requests), min(count, len(self.requests)), replace=False)
        drawn = [self.requests[row] for row in rows]
        width = min(width, *(len(request.candidates) for request in drawn))
        orders = [random.permutation(len(request.candidates))[:width] for request in drawn]
        pairs = list(zip(drawn, orders, strict=True))
        return TextSlates(
            [request.context for request in drawn],
            [[request.candidates[index] for index in order] for request, order in pairs],
            np.array([[graded(request)[index] for index in order] for request, order in pairs]),
            None,
        )


def graded(request: Request) -> Sequence[int]:
    """As losses read them: label 1 is what RELEVANT is among grades."""
    return [grade * RELEVANT for grade in request.grades] if request.binary else request.grades


@dataclass
class GeneratedSlates:
    """New members and postings of the training occupations, the world renewed now and then."""

    occupations: Sequence[Occupation]
    relations: npt.NDArray[np.int8]  # (member's occupation, job's occupation)
    seed: int
    steps_per_world: int
    inverted_share: float  # of steps that rank members for a job

    @classmethod
    def load(
        cls, data: Path, seed: int, steps_per_world: int, inverted_share: float
    ) -> GeneratedSlates:
        """Reads the tables of `data`; only rows of the training split are used."""
        occupations = load_occupations(data)
        relations = load_relations(data, occupations)
        return cls(occupations, relations, seed, steps_per_world, inverted_share)

    @cached_property
    def _worlds(self) -> WorldTexts:
        return WorldTexts(self.occupations, (self.seed, 4))

    @cached_property
    def _majors(self) -> npt.NDArray[np.int64]:
        return np.array([int(occupation.code[:2]) for occupation in self.occupations])

    def draw(self, step: int, count: int, width: int) -> TextSlates:
        random = np.random.default_rng([self.seed, 3, step])
        members, postings = self._worlds.of(step // self.steps_per_world)
        inverted = bool(random.random() < self.inverted_share)
        contexts, candidates = (postings, members) if inverted else (members, postings)
        grades = self.relations.T if inverted else self.relations
        rows = random.permutation(len(self.occupations))[:count]
        chosen = np.stack([slate(row, grades, self._majors, random)[:width] for row in rows])
        return TextSlates(
            [contexts[row] for row in rows],
            [[candidates[index] for index in slate_rows] for slate_rows in chosen],
            np.take_along_axis(grades[rows], chosen, axis=1).astype(np.int64),
            JOB_TO_MEMBERS if inverted else MEMBER_TO_JOBS,
        )
