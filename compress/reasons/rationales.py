"""Makes examples of reasons from the training occupations' tables. Knows no tokens, no weights.

A member and a posting are drawn as for training slates. Of all sentences that their facts allow,
the rationale is the one whose two facts share most, by rare words; where no words are shared, the
tables say which of the member's knowledge or skills matters most to the posting's occupation. So
the tables decide what is said, and nothing is named that the two texts do not state.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from compress.data.requests import RELEVANT, Occupation, load_occupations, load_relations
from compress.data.world_texts import WorldTexts
from compress.reasons.text_examples import TextExample
from models.reasons.facts import Facts, job_facts, member_facts
from models.reasons.frames import FRAMES, Frame, Reason, possible_frames, shared_level

STEM = 5  # letters that stand for a word, so that its endings do not matter
STEPS_PER_WORLD = 40
UNRELATED_SHARE = 0.1  # of pairs, so that weak matches are met as well
KNOWN = ("knowledge", "skill")


@dataclass(frozen=True, slots=True)
class SharedWords:
    """How much two facts have in common: rare stems in both, over the smaller one's.

    shared(a, b) = sum idf(a and b) / sqrt(sum idf(a) sum idf(b))
    """

    rarity: dict[str, float]
    unseen: float

    @classmethod
    def of(cls, texts: Sequence[str]) -> SharedWords:
        """Rarity as log(N / count) over texts."""
        counts = Counter(stem for text in texts for stem in set(stems(text)))
        rarity = {stem: math.log(len(texts) / count) for stem, count in counts.items()}
        return cls(rarity, math.log(len(texts)))

    def shared(self, left: str, right: str) -> float:
        """From 0, no stem in common, to 1, the same stems."""
        ours, theirs = set(stems(left)), set(stems(right))
        whole = self._weight(ours) * self._weight(theirs)
        return self._weight(ours & theirs) / math.sqrt(whole) if whole else 0.0

    def _weight(self, found: Iterable[str]) -> float:
        # Exact, so that ties stay ties: the order of a set is another one in every process.
        return math.fsum(self.rarity.get(stem, self.unseen) for stem in found)


def fact_texts(occupations: Sequence[Occupation]) -> list[str]:
    """Every task, title and tool, once an occupation."""
    return [
        text
        for occupation in occupations
        for text in (*occupation.tasks, *occupation.titles, *occupation.tools)
    ]


def stems(text: str) -> list[str]:
    """Lower-case beginnings of the words."""
    return [word[:STEM] for word in re.findall(r"[a-z]{2,}", text.lower())]


def rationale(
    member_side: Facts, job_side: Facts, occupation: Occupation, words: SharedWords
) -> Reason | None:
    """The best-grounded sentence, or None when the texts hold no facts for one."""
    level = shared_level(member_side, job_side)
    frames = list(possible_frames(member_side, job_side))
    if not frames:
        return None
    score, best = max(
        (
            (words.shared(ours, theirs), Reason(frame, ours, theirs, level))
            for frame in frames
            for ours in member_side.of(frame.member_kind)
            for theirs in job_side.of(frame.job_kind)
        ),
        key=lambda pair: pair[0],
    )
    if score > 0:
        return best
    return _by_importance(member_side, job_side, occupation, level) or best


def _by_importance(
    member_side: Facts, job_side: Facts, occupation: Occupation, level: str | None
) -> Reason | None:
    """What of the member's knowledge, else skills, the posting's occupation needs most."""
    duties = job_side.of("duty")
    for kind, needed in zip(KNOWN, (occupation.knowledge, occupation.skills), strict=True):
        held = [element for element in needed if element in member_side.of(kind)]
        if held and duties:
            return Reason(_frame(kind), held[0], duties[0], level)
    return None


def _frame(member_kind: str) -> Frame:
    return next(frame for frame in FRAMES if frame.member_kind == member_kind)


@dataclass
class RationaleExamples:
    """Endless examples by step, `compress.reasons.text_examples.TextSource`."""

    occupations: Sequence[Occupation]
    relations: npt.NDArray[np.int8]
    words: SharedWords
    seed: int

    @classmethod
    def load(cls, data: Path, seed: int) -> RationaleExamples:
        """Reads the tables of `data`; only rows of the training split are used."""
        occupations = load_occupations(data)
        words = SharedWords.of(fact_texts(occupations))
        return cls(occupations, load_relations(data, occupations), words, seed)

    def __post_init__(self) -> None:
        self._pairs = np.argwhere(self.relations >= RELEVANT)
        self._worlds = WorldTexts(self.occupations, (self.seed, 8))

    def draw(self, step: int, count: int) -> list[TextExample]:
        random = np.random.default_rng([self.seed, 7, step])
        members, postings = self._worlds.of(step // STEPS_PER_WORLD)
        examples: list[TextExample] = []
        while len(examples) < count:
            row, column = self._pair(random)
            example = self._example(members[row], postings[column], self.occupations[column])
            examples += [example] if example else []
        return examples

    def _pair(self, random: np.random.Generator) -> tuple[int, int]:
        if random.random() < UNRELATED_SHARE:
            row, column = random.integers(len(self.occupations), size=2)
        else:
            row, column = self._pairs[random.integers(len(self._pairs))]
        return int(row), int(column)

    def _example(self, context: str, candidate: str, occupation: Occupation) -> TextExample | None:
        reason = rationale(member_facts(context), job_facts(candidate), occupation, self.words)
        return TextExample(context, candidate, str(reason)) if reason else None
