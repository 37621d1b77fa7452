"""Which words may stand for each other: those an encoder puts close. Knows no texts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from compress.data.generate import LEVELS
from compress.students.word_table import FIELDS

MOST, LEAST_COSINE = 8, 0.45
WORD = re.compile("[a-z]{3,}")
GRAMMAR = (
    "the and for with from such using use that this these those into other etc not which their its "
    "they them than then all any each may can per via used new more most both own out off over "
    "under within between including related are"
)
# What frames every text says the same whatever stands in the frame.
KEPT = {*GRAMMAR.split(), *FIELDS.split(), *(word for level in LEVELS for word in level.split())}


def neighbours_of(tokens: Sequence[str], vectors: Tensor) -> Mapping[str, Sequence[str]]:
    """At most MOST neighbours a word, nearest first; a word that has none is left out.

    vectors (tokens, hidden): of length 1. Pieces, markers and words of grammar stand for nothing.
    """
    rows = [i for i, token in enumerate(tokens) if WORD.fullmatch(token) and token not in KEPT]
    words, kept = [tokens[row] for row in rows], vectors[rows]
    cosines = (kept @ kept.T).fill_diagonal_(-1)
    values, places = cosines.topk(min(MOST, len(words)), dim=1)
    return {
        word: [
            words[p] for p, v in zip(near.tolist(), cos.tolist(), strict=True) if v > LEAST_COSINE
        ]
        for word, near, cos in zip(words, places, values, strict=True)
        if cos[0] > LEAST_COSINE
    }
