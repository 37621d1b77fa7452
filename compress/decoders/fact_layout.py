"""Where a wired reasoner keeps what: dimensions of the residual, and what tokens mean to it.

Knows no weights, no texts and no tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from models.config import DecoderConfig

CONSTANT = 0  # the same for every token
KINDS = ("headline", "level", "skill", "knowledge", "task", "tool", "duty", "title")
LISTS = ("skill", "knowledge", "tool")  # facts that commas part
STEM_SIZE, WORD_SIZE = 28, 60
FLAG = 4.0  # size of a token's own mark


def _numbered(*names: str) -> dict[str, int]:
    return {name: number for number, name in enumerate(names, start=CONSTANT + 1)}


# Marks that a token's embedding carries, then notes that layers write.
MARKS = _numbered(
    *("strong", "comma", "field", "member", "job", "ask", "open", "choice", "rarity"),
    *(f"is_{kind}" for kind in KINDS),
    *("after_strong", "after_comma", "in_member", "in_job", "in_ask", "start", "score"),
    *(f"of_{kind}" for kind in KINDS),
    *(f"matched_{kind}" for kind in KINDS),
)


LEAST_LAYERS, LEAST_KV_HEADS = 4, 4
LEAST_HIDDEN_SIZE = len(MARKS) + 1 + STEM_SIZE + 5 * WORD_SIZE


@dataclass(frozen=True, slots=True)
class TokenMarks:
    """What single tokens say of the texts' form, and of words.

    stems: (vocab,) int, alike for tokens that begin alike; rarity: (vocab,) 0 to 1.
    marks: tokens that carry a mark; openings and middles: tokens that a kind of the member's or
    the job's fact lets follow where a sentence's form is chosen.
    """

    stems: Tensor
    rarity: Tensor
    marks: Mapping[str, Sequence[int]]
    openings: Mapping[str, Sequence[int]]
    middles: Mapping[str, Sequence[int]]
    pairs: Sequence[tuple[str, str]]  # kinds of member's and job's facts that go together


@dataclass(frozen=True, slots=True)
class Layout:
    """READ and WRITE name a token, BEFORE the one before it, FIRST the first of its fact.

    MATCHED is the first token of the member's fact that holds the same stem.
    """

    stem: slice
    read: slice
    before: slice
    first: slice
    matched: slice
    write: slice

    @classmethod
    def of(cls, config: DecoderConfig) -> Layout:
        """Of a decoder that is wide enough."""
        marks = len(MARKS) + 1
        read = marks + STEM_SIZE
        tail = config.hidden_size - 4 * WORD_SIZE
        assert tail - read >= WORD_SIZE, f"hidden_size must be {read + 5 * WORD_SIZE} or more"
        ends = [tail + WORD_SIZE * number for number in range(5)]
        parts = [slice(*pair) for pair in pairwise(ends)]
        return cls(slice(marks, read), slice(read, tail), *parts)


def input_rms(config: DecoderConfig) -> float:
    """Of an embedding: ones, but nothing where layers note, and the constant's two."""
    whole = config.hidden_size - len(MARKS) - 1 - 3 * WORD_SIZE
    return math.sqrt((whole + 4) / config.hidden_size)
