"""Texts in which words give way to others of like meaning. Knows nothing of worlds or encoders.

A table holds for all texts of a world: what two texts have in common they have in common still.
(Augmentation for distillation as in TinyBERT, Jiao et al. 2020, section 3.2, by whole worlds.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

WORD = re.compile(r"[A-Za-z]{3,}")
SHARES = (0.15, 0.6)  # of the words, drawn anew for every table
Neighbours = Mapping[str, Sequence[str]]  # words of like meaning, by word in lower case


def substitutions(neighbours: Neighbours, random: np.random.Generator) -> dict[str, str]:
    """A neighbour each for a random share of the words."""
    share = random.uniform(*SHARES)
    return {
        word: others[int(random.integers(len(others)))]
        for word, others in neighbours.items()
        if random.random() < share
    }


def substituted(text: str, table: Mapping[str, str]) -> str:
    """The text with every word of the table replaced, whatever its case."""
    return WORD.sub(lambda found: table.get(found[0].lower(), found[0]), text)
