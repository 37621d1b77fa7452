"""Worlds of texts, tokenized twice: for an encoder and for a student. Knows nothing of weights.

A world is one member and one posting of every occupation. Worlds are functions of (seed, number),
so any of several processes builds any of them; in a mixed world each occupation is half another.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from compress.data.generate import World, member, mixed, posting
from compress.data.requests import Occupation, load_occupations, load_relations
from compress.data.sampling import Draw, draw, majors_of

RELATED_PARTNERS = 0.6  # share of mixtures with an occupation of the list; the rest is anybody


@dataclass(frozen=True, slots=True)
class Texts:
    """Token ids of many texts in one array."""

    flat: npt.NDArray[np.uint16]
    bounds: npt.NDArray[np.int64]

    @classmethod
    def encode(cls, tokenizer: Tokenizer, texts: Sequence[str]) -> Texts:
        """Without special tokens."""
        ids = [e.ids for e in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
        bounds = np.cumsum([0, *map(len, ids)])
        return cls(np.concatenate(ids).astype(np.uint16), bounds)

    def __getitem__(self, index: int) -> npt.NDArray[np.int64]:
        return self.flat[self.bounds[index] : self.bounds[index + 1]].astype(np.int64)

    def __len__(self) -> int:
        return len(self.bounds) - 1


@dataclass(frozen=True, slots=True)
class TokenWorld:
    """(members, postings) of every occupation, in both vocabularies."""

    encoder: tuple[Texts, Texts]
    student: tuple[Texts, Texts]


@dataclass(frozen=True, slots=True)
class WorldSource:
    """All that a process needs to build world after world."""

    occupations: Sequence[Occupation]
    relations: npt.NDArray[np.int8]
    encoder_tokenizer: Tokenizer
    student_tokenizer: Tokenizer
    seed: int
    majors: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "majors", majors_of(self.occupations))

    @classmethod
    def load(
        cls, data: Path, encoder_tokenizer: Tokenizer, student_tokenizer: Tokenizer, seed: int
    ) -> WorldSource:
        """Reads the training occupations of `data`."""
        occupations = load_occupations(data)
        relations = load_relations(data, occupations)
        return cls(occupations, relations, encoder_tokenizer, student_tokenizer, seed)

    def build(self, number: int, is_mixed: bool) -> TokenWorld:
        """World `number`."""
        members, postings = self.texts(number, is_mixed)
        return TokenWorld(
            _both(self.encoder_tokenizer, members, postings),
            _both(self.student_tokenizer, members, postings),
        )

    def texts(self, number: int, is_mixed: bool) -> tuple[list[str], list[str]]:
        """Members and postings of world `number`."""
        random = np.random.default_rng([self.seed, int(is_mixed), number])
        occupations = self.occupations
        if is_mixed:
            occupations = [self._mixture(row, random) for row in range(len(occupations))]
        facts = World.divide(occupations, random)
        members = zip(occupations, facts.member_facts, strict=True)
        postings = zip(occupations, facts.posting_facts, strict=True)
        return (
            [member(occupation, fact, random) for occupation, fact in members],
            [posting(occupation, fact, random) for occupation, fact in postings],
        )

    def _mixture(self, row: int, random: np.random.Generator) -> Occupation:
        related = np.flatnonzero((self.relations[row] > 0) & (self.relations[row] < 4))
        pool = np.arange(len(self.occupations))
        if len(related) and random.random() < RELATED_PARTNERS:
            pool = related
        return mixed(self.occupations[row], self.occupations[random.choice(pool)], random)

    def draw(self, random: np.random.Generator, count: int, width: int, inverted: float) -> Draw:
        """Slates over the training occupations."""
        return draw(self.relations, self.majors, random, count, width, inverted)


class Worlds:
    """`plain` and `mixed` many worlds of a source, each built once and kept, a few 100 kB each."""

    def __init__(self, source: WorldSource, plain: int, mixed: int = 0) -> None:
        self.source, self._counts = source, {False: plain, True: mixed}
        self._built: dict[tuple[bool, int], TokenWorld] = {}

    def of(self, step: int, is_mixed: bool) -> TokenWorld:
        """Steps walk through the worlds again and again."""
        key = is_mixed, step % self._counts[is_mixed]
        if key not in self._built:
            self._built[key] = self.source.build(key[1], is_mixed)
        return self._built[key]

    def build(self, processes: int) -> None:
        """All of them now, by several processes; with none each is built when it is read."""
        if not processes:
            return
        with ProcessPoolExecutor(processes, get_context("fork")) as pool:
            for is_mixed, count in self._counts.items():
                one = partial(self.source.build, is_mixed=is_mixed)
                for number, world in enumerate(pool.map(one, range(count), chunksize=4)):
                    self._built[is_mixed, number] = world


def _both(tokenizer: Tokenizer, first: list[str], second: list[str]) -> tuple[Texts, Texts]:
    return Texts.encode(tokenizer, first), Texts.encode(tokenizer, second)
