"""Turns generated members and postings into tokenized training slates. Knows nothing of weights.

Everything is a function of (seed, step): a killed run that starts again sees the very same slates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from compress.data.generate import World, member, posting, slate
from compress.data.requests import Occupation, load_occupations, load_relations
from compress.data.tokenizer import MARKERS

Bag = npt.NDArray[np.int64]
MEMBER_CONTEXT, JOB_CONTEXT, JOB_CANDIDATE, MEMBER_CANDIDATE = (
    MARKERS.index(name) for name in ("<member>", "<job>", "<candidate_job>", "<candidate_member>")
)
MATCH = MARKERS.index("<match>")


@dataclass(frozen=True, slots=True)
class Slates:
    """S slates as token ids, markers included; `slates` indexes `candidates`."""

    contexts: list[Bag]
    candidates: list[Bag]
    slates: npt.NDArray[np.int64]  # (S, C)
    grades: npt.NDArray[np.int8]  # (S, C)
    jobs_are_candidates: bool


@dataclass(frozen=True, slots=True)
class Draw:
    """S slates as indices of occupations, before anybody wrote their texts."""

    rows: npt.NDArray[np.int64]  # (S,) whose contexts
    chosen: npt.NDArray[np.int64]  # (S, C) whose candidates
    grades: npt.NDArray[np.int8]  # (S, C)
    jobs_are_candidates: bool


def majors_of(occupations: Sequence[Occupation]) -> npt.NDArray[np.int64]:
    """The SOC major group of each."""
    return np.array([int(occupation.code[:2]) for occupation in occupations])


def draw(
    relations: npt.NDArray[np.int8],
    majors: npt.NDArray[np.int64],
    random: np.random.Generator,
    count: int,
    width: int,
    inverted_share: float,
) -> Draw:
    """`count` slates of `width` candidates, a share of all draws with members as candidates."""
    jobs_are_candidates = bool(random.random() >= inverted_share)
    rows = random.permutation(len(relations))[:count]
    grades = relations if jobs_are_candidates else relations.T
    chosen = np.stack([slate(row, grades, majors, random)[:width] for row in rows])
    return Draw(rows, chosen, np.take_along_axis(grades[rows], chosen, axis=1), jobs_are_candidates)


class Bags(Protocol):
    """Texts by number."""

    def __getitem__(self, index: int, /) -> Bag: ...


def framed(
    drawn: Draw,
    members: Bags,
    postings: Bags,
    token_dropout: float,
    random: np.random.Generator,
) -> Slates:
    """The slates' texts between the template's markers."""
    contexts, candidates = members, postings
    context_marker, marker = MEMBER_CONTEXT, JOB_CANDIDATE
    if not drawn.jobs_are_candidates:
        contexts, candidates = postings, members
        context_marker, marker = JOB_CONTEXT, MEMBER_CANDIDATE
    used, slates = np.unique(drawn.chosen, return_inverse=True)
    return Slates(
        [
            framed_text(context_marker, contexts[row], (), token_dropout, random)
            for row in drawn.rows
        ],
        [framed_text(marker, candidates[row], (MATCH,), token_dropout, random) for row in used],
        slates.reshape(drawn.chosen.shape),
        drawn.grades,
        drawn.jobs_are_candidates,
    )


@dataclass(slots=True)
class SlateSampler:
    """Draws slates over the training occupations; keeps the world of the latest steps."""

    tokenizer: Tokenizer
    occupations: Sequence[Occupation]
    relations: npt.NDArray[np.int8]  # (member's occupation, job's occupation)
    seed: int
    steps_per_world: int
    inverted_share: float  # of steps that rank members for a job
    _world: tuple[int, list[Bag], list[Bag]] = field(default=(-1, [], []), init=False)

    @classmethod
    def load(
        cls,
        data: Path,
        tokenizer: Tokenizer,
        seed: int,
        steps_per_world: int,
        inverted_share: float,
    ) -> SlateSampler:
        """Reads the tables of `data`; only rows of the training split are used."""
        occupations = load_occupations(data)
        relations = load_relations(data, occupations)
        return cls(tokenizer, occupations, relations, seed, steps_per_world, inverted_share)

    def draw(self, step: int, count: int, width: int, token_dropout: float) -> Slates:
        """`count` slates of `width` candidates each."""
        random = np.random.default_rng([self.seed, 1, step])
        members, postings = self._texts(step // self.steps_per_world)
        majors = majors_of(self.occupations)
        drawn = draw(self.relations, majors, random, count, width, self.inverted_share)
        return framed(drawn, members, postings, token_dropout, random)

    def _texts(self, world: int) -> tuple[list[Bag], list[Bag]]:
        if self._world[0] != world:
            random = np.random.default_rng([self.seed, 0, world])
            facts = World.divide(self.occupations, random)
            pairs = list(zip(self.occupations, facts.member_facts, strict=True))
            members = [member(occupation, fact, random) for occupation, fact in pairs]
            pairs = list(zip(self.occupations, facts.posting_facts, strict=True))
            postings = [posting(occupation, fact, random) for occupation, fact in pairs]
            self._world = world, self._encode(members), self._encode(postings)
        return self._world[1:]

    def _encode(self, texts: list[str]) -> list[Bag]:
        return [np.array(encoding.ids) for encoding in self.tokenizer.encode_batch_fast(texts)]


def framed_text(
    head: int, ids: Bag, tail: tuple[int, ...], dropout: float, random: np.random.Generator
) -> Bag:
    """Template around the text, of whose tokens a share `dropout` is left out."""
    return np.concatenate(([head], ids[random.random(len(ids)) >= dropout], tail)).astype(np.int64)
