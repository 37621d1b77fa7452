"""Reads the facts that a member's and a job's text state. Knows no sentence and no model.

A fact is always a piece of the text as it stands there, so whoever names one makes nothing up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

MEMBER_NAMES = {
    "Headline": "headline",
    "Background": "level",
    "Skills": "skill",
    "Knowledge": "knowledge",
    "Experience": "task",
    "Tools used": "tool",
}
JOB_NAMES = {"Duties": "duty", "Tools": "listed_tool", "Level": "level"}
TITLE = "title"  # what a job's text opens with
SEPARATORS = {"skill": ", ", "knowledge": ", ", "tool": ", ", "listed_tool": ", "}
CLAUSE_OPENERS = frozenset(
    [
        *("according", "as", "based", "by", "for", "from", "including", "into", "so", "such"),
        *("that", "through", "to", "using", "when", "which", "while", "who", "with"),
    ]
)
SHORTEST = 4  # words of a leading phrase
QUOTES = "“”"  # mark facts in a sentence, so no fact may hold them


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts by kind, in the order of the text."""

    by_kind: Mapping[str, tuple[str, ...]]

    def of(self, kind: str) -> tuple[str, ...]:
        """None of an unknown kind."""
        return self.by_kind.get(kind, ())


def member_facts(text: str, is_cut: bool = False) -> Facts:
    """Of a text in the demo's fields; text without any field is one list of tasks.

    is_cut: the text ends somewhere within its last fact, which is left out.
    """
    return _facts(text, MEMBER_NAMES, "task", is_cut)


def job_facts(text: str, is_cut: bool = False) -> Facts:
    """As of a member; what stands before the first field is the title."""
    return _facts(text, JOB_NAMES, TITLE, is_cut)


def _facts(text: str, names: Mapping[str, str], opening: str, is_cut: bool) -> Facts:
    pattern = rf"(?:^|(?<=\s))({'|'.join(map(re.escape, names))}): "
    head, *rest = re.split(pattern, text)
    found: dict[str, list[str]] = {}
    fields = [(opening, head)] + [
        (names[name], value) for name, value in zip(rest[::2], rest[1::2], strict=True)
    ]
    for number, (kind, value) in enumerate(fields, start=1):
        pieces = value.strip().removesuffix(".").split(SEPARATORS.get(kind, "; "))
        whole = pieces[:-1] if is_cut and number == len(fields) else pieces
        found.setdefault(kind, []).extend(_nameable(kind, whole))
    return Facts({kind: tuple(dict.fromkeys(facts)) for kind, facts in found.items()})


def _nameable(kind: str, pieces: list[str]) -> list[str]:
    whole = (piece.strip() for piece in pieces)
    facts = (leading_phrase(piece) if kind in ("task", "duty") else piece for piece in whole)
    return [fact for fact in facts if any(map(str.isalnum, fact)) and not set(fact) & set(QUOTES)]


def leading_phrase(task: str) -> str:
    """A task up to its first clause after four words: verbatim, and short enough to quote."""
    words = task.split(" ")
    for index in range(SHORTEST, len(words)):
        if words[index - 1][-1:] in (",", ";", ":") or words[index] in CLAUSE_OPENERS:
            return _without_openers(words[:index])
    return task


def _without_openers(words: list[str]) -> str:
    """A phrase that ends neither in a clause's first words nor in a comma."""
    while len(words) > 1 and words[-1] in CLAUSE_OPENERS:
        words = words[:-1]
    return " ".join(words).rstrip(",;:")
