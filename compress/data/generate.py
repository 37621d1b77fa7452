"""Samples new members, postings and slates of occupations. Knows nothing of tokens or models.

Members use one random half of an occupation's titles, tasks and tools and postings the other, so
that a member and a posting of the same occupation never share a fact, as in the data themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.data.requests import SAME_OCCUPATION, Occupation

LEVELS = ("little or no", "some", "medium", "considerable", "extensive")
CANDIDATES_PER_GRADE = {SAME_OCCUPATION: 2, 3: 3, 2: 2, 1: 3}
HARD_NEGATIVES = 6
SLATE = 24
Facts = dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class World:
    """One random division of every occupation's facts between members and postings."""

    member_facts: tuple[Facts, ...]
    posting_facts: tuple[Facts, ...]

    @classmethod
    def divide(cls, occupations: Sequence[Occupation], random: np.random.Generator) -> World:
        """Fresh halves for every occupation."""
        sides = [_divide(occupation, random) for occupation in occupations]
        return cls(tuple(side[0] for side in sides), tuple(side[1] for side in sides))


def _divide(occupation: Occupation, random: np.random.Generator) -> tuple[Facts, Facts]:
    member, posting = {}, {}
    for name in ("titles", "tasks", "tools"):
        values = getattr(occupation, name)
        order = [values[index] for index in random.permutation(len(values))]
        middle = (len(order) + 1) // 2
        member[name], posting[name] = tuple(order[:middle]), tuple(order[middle:])
    return member, posting


def _sample(values: Sequence[str], count: int, random: np.random.Generator) -> list[str]:
    chosen = random.permutation(len(values))[:count]
    return [values[index] for index in chosen]


def member(occupation: Occupation, facts: Facts, random: np.random.Generator) -> str:
    """A profile: a quarter sparse, a fifth without headline, as in the data."""
    sparse, headline = random.random() < 0.25, random.random() < 0.8
    skills = _sample(occupation.skills[:9], 2 if sparse else 4, random)
    knowledge = _sample(occupation.knowledge[:5], 1 if sparse else 3, random)
    parts = [f"Background: {LEVELS[occupation.level - 1]} preparation."]
    if headline and facts["titles"]:
        parts.insert(0, f"Headline: {_sample(facts['titles'], 1, random)[0]}.")
    if skills and knowledge:
        parts += [f"Skills: {', '.join(skills)}.", f"Knowledge: {', '.join(knowledge)}."]
    if not (sparse and headline):
        parts.append(f"Experience: {'; '.join(_sample(facts['tasks'], 3, random))}.")
        parts.append(f"Tools used: {', '.join(_sample(facts['tools'], 4, random))}.")
    return " ".join(parts)


def posting(occupation: Occupation, facts: Facts, random: np.random.Generator) -> str:
    """A posting: one in five carries the occupation's own title, as in the data."""
    titles = facts["titles"] if facts["titles"] and random.random() < 0.8 else (occupation.title,)
    duties, tools = _sample(facts["tasks"], 2, random), _sample(facts["tools"], 3, random)
    tail = f"Level: {LEVELS[occupation.level - 1]} preparation."
    tool_part = f"Tools: {', '.join(tools)}. " if tools else ""
    return f"{_sample(titles, 1, random)[0]}. Duties: {'; '.join(duties)}. {tool_part}{tail}"


def mixed(first: Occupation, second: Occupation, random: np.random.Generator) -> Occupation:
    """An occupation that nobody listed, with half of the facts of each: no table grades it."""
    facts: dict[str, Any] = {}
    for name in ("titles", "tasks", "tools", "skills", "knowledge"):
        parts = [getattr(occupation, name) for occupation in (first, second)]
        kept = [_sample(part, (len(part) + 1) // 2, random) for part in parts]
        facts[name] = tuple(value for pair in zip_longest(*kept) for value in pair if value)
    return replace(first, level=random.choice([first.level, second.level]), **facts)


def slate(
    row: int,
    grades: npt.NDArray[np.int8],
    majors: npt.NDArray[np.int64],
    random: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """Occupation indices of 24 candidates for occupation `row`, mixed by grade as the data are."""
    chosen = [
        index
        for grade, count in CANDIDATES_PER_GRADE.items()
        if len(pool := np.flatnonzero(grades[row] == grade))
        for index in random.choice(pool, count, replace=len(pool) < count)
    ]
    hard = np.flatnonzero((grades[row] == 0) & (majors == majors[row]))
    easy = np.flatnonzero((grades[row] == 0) & (majors != majors[row]))
    chosen += list(random.permutation(hard)[:HARD_NEGATIVES])
    chosen += list(random.choice(easy, SLATE - len(chosen), replace=False))
    return random.permutation(np.array(chosen, dtype=np.int64))
