"""Worlds of texts, tokenized twice: for an encoder and for a student. Knows nothing of weights.

A world is one member and one posting of every occupation. Worlds are functions of (seed, kind,
number), so any of several processes builds any of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from enum import IntEnum
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from compress.data.generate import World, member, mixed, posting
from compress.data.requests import Occupation, load_occupations, load_relations
from compress.data.sampling import Draw, draw, majors_of
from compress.data.substitution import Neighbours, substituted, substitutions
from compress.data.token_places import TokenPlaces, token_places

RELATED_PARTNERS = 0.6  # share of mixtures with an occupation of the list; the rest is anybody


class Kind(IntEnum):
    """What a world's texts are of."""

    PLAIN = 0  # the occupations as they are, which the relations grade
    MIXED = 1  # each half another occupation
    SUBSTITUTED = 2  # plain or mixed, with other words of like meaning


@dataclass(frozen=True, slots=True)
class Texts:
    """Token ids of many texts in one array."""

    flat: npt.NDArray[np.uint16]
    bounds: npt.NDArray[np.int64]

    @classmethod
    def encode(cls, tokenizer: Tokenizer, texts: Sequence[str]) -> Texts:
        """Without special tokens."""
        return cls.of(tokenizer.encode_batch_fast(list(texts), add_special_tokens=False))

    @classmethod
    def of(cls, encodings: Sequence[Encoding]) -> Texts:
        """What a tokenizer made of texts."""
        ids = [encoding.ids for encoding in encodings]
        bounds = np.cumsum([0, *map(len, ids)])
        return cls(np.concatenate(ids).astype(np.uint16), bounds)

    def __getitem__(self, index: int) -> npt.NDArray[np.int64]:
        return self.flat[self.bounds[index] : self.bounds[index + 1]].astype(np.int64)

    def __len__(self) -> int:
        return len(self.bounds) - 1


@dataclass(frozen=True, slots=True)
class TokenWorld:
    """(members, postings) of every occupation, in both vocabularies.

    places: where the student's tokens lie among the encoder's, member by member, then postings.
    graded: whether the relations of the occupations hold for the texts.
    """

    encoder: tuple[Texts, Texts]
    student: tuple[Texts, Texts]
    places: TokenPlaces
    graded: bool


@dataclass(frozen=True, slots=True)
class WorldSource:
    """All that a process needs to build world after world."""

    occupations: Sequence[Occupation]
    relations: npt.NDArray[np.int8]
    encoder_tokenizer: Tokenizer
    student_tokenizer: Tokenizer
    seed: int
    neighbours: Neighbours = field(default_factory=dict)  # that substituted worlds draw from
    majors: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "majors", majors_of(self.occupations))

    @classmethod
    def load(
        cls,
        data: Path,
        encoder_tokenizer: Tokenizer,
        student_tokenizer: Tokenizer,
        seed: int,
        neighbours: Neighbours | None = None,
    ) -> WorldSource:
        """Reads the training occupations of `data`."""
        occupations = load_occupations(data)
        relations = load_relations(data, occupations)
        tokenizers = encoder_tokenizer, student_tokenizer
        return cls(occupations, relations, *tokenizers, seed, neighbours or {})

    def build(self, kind: Kind, number: int) -> TokenWorld:
        """World `number` of its kind."""
        sides = self.texts(kind, number)
        encoder, student = (
            [tokenizer.encode_batch(side, add_special_tokens=False) for side in sides]
            for tokenizer in (self.encoder_tokenizer, self.student_tokenizer)
        )
        return TokenWorld(
            (Texts.of(encoder[0]), Texts.of(encoder[1])),
            (Texts.of(student[0]), Texts.of(student[1])),
            token_places([*student[0], *student[1]], [*encoder[0], *encoder[1]]),
            graded=kind == Kind.PLAIN,
        )

    def texts(self, kind: Kind, number: int) -> tuple[list[str], list[str]]:
        """Members and postings of world `number` of its kind."""
        random = np.random.default_rng([self.seed, int(kind), number])
        occupations = self.occupations
        if kind == Kind.MIXED or (kind == Kind.SUBSTITUTED and number % 2):
            occupations = [self._mixture(row, random) for row in range(len(occupations))]
        facts = World.divide(occupations, random)
        members = zip(occupations, facts.member_facts, strict=True)
        postings = zip(occupations, facts.posting_facts, strict=True)
        texts = (
            [member(occupation, fact, random) for occupation, fact in members],
            [posting(occupation, fact, random) for occupation, fact in postings],
        )
        if kind != Kind.SUBSTITUTED:
            return texts
        table = substitutions(self.neighbours, random)
        ours, theirs = ([substituted(text, table) for text in side] for side in texts)
        return ours, theirs

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
    """So many worlds of each kind, each built once and kept, half a MB each.

    turn: the kinds of consecutive steps, again and again. The steps of a kind walk through all of
    its worlds before one comes back.
    """

    def __init__(
        self, source: WorldSource, counts: Mapping[Kind, int], turn: Sequence[Kind]
    ) -> None:
        self.source, self._counts, self._turn = source, counts, turn
        self._built: dict[tuple[Kind, int], TokenWorld] = {}

    def of(self, step: int) -> TokenWorld:
        """The world of a step."""
        key = self.key(step)
        if key not in self._built:
            self._built[key] = self.source.build(*key)
        return self._built[key]

    def key(self, step: int) -> tuple[Kind, int]:
        """Kind and number of a step's world."""
        round_, place = divmod(step, len(self._turn))
        kind = self._turn[place]
        number = round_ * self._turn.count(kind) + self._turn[:place].count(kind)
        return kind, number % self._counts[kind]

    def build(self, processes: int) -> None:
        """All of them now, by several processes; with none each is built when it is read."""
        if not processes:
            return
        keys = [(kind, number) for kind in {*self._turn} for number in range(self._counts[kind])]
        with ProcessPoolExecutor(processes, get_context("fork")) as pool:
            kinds, numbers = zip(*keys, strict=True)
            worlds = pool.map(self.source.build, kinds, numbers, chunksize=4)
            self._built |= dict(zip(keys, worlds, strict=True))
