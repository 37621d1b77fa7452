"""The sentences that two texts allow, as a lattice of tokens, and tokens back as a sentence.

What is left to the model is which way to go where ways part: the kind of reason, whose fact, and
whether to state the level. Knows no weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from models.errors import FairslateError
from models.prompt import PromptBuilder
from models.reasons.facts import Facts
from models.reasons.frames import (
    CLOSE,
    END,
    FRAMES,
    LEVEL_TAIL,
    OPEN,
    Frame,
    Reason,
    possible_frames,
    shared_level,
)
from models.reasons.lattice import Branches, Lattice, insert

END_OF_ANSWER = "<end>"
LEVEL = "level"
MOST_FACTS = 64  # of a kind; more than a model reads of one text
MOST_FACT_TOKENS = 40

Tokens = tuple[int, ...]
FactTokens = Mapping[str, Mapping[str, Tokens]]  # by kind, then by fact


class ReasonUnreadableError(FairslateError):
    """Tokens that are none of the sentences which they were to be chosen from."""

    code = "reason_unreadable"


class ReasonTokens:
    """Turns facts into grammars with the tokens of one model. Thread-safe.

    Raises ModelDirectoryError for a model without tokens for quotes and the end of an answer.
    """

    def __init__(self, prompt: PromptBuilder) -> None:
        self._prompt = prompt
        self.open, self.close = prompt.token_id(OPEN), prompt.token_id(CLOSE)
        self.end = prompt.token_id(END_OF_ANSWER)
        parts = {frame.opening for frame in FRAMES} | {frame.middle for frame in FRAMES}
        self._words = self._encoded([*sorted(parts), LEVEL_TAIL, END])

    def grammars(self, member: Facts, jobs: Sequence[Facts]) -> list[ReasonGrammar | None]:
        """One for each job; None where no fact of both texts goes into a sentence."""
        sides = [member, *jobs]
        known = self._encoded(sorted({text for side in sides for text in _texts(side)}))
        ours, *theirs = [_tokens_of(side, known) for side in sides]
        return [self._grammar(ours, side) for side in theirs]

    def words(self, text: str) -> Tokens:
        """Of a part of a frame."""
        return self._words[text]

    def _encoded(self, texts: Sequence[str]) -> dict[str, Tokens]:
        # The quote's token takes in the space before it.
        ids = self._prompt.text_ids([text.rstrip(" ") for text in texts])
        return dict(zip(texts, map(tuple, ids), strict=True))

    def _grammar(self, member: FactTokens, job: FactTokens) -> ReasonGrammar | None:
        sides = _facts(member), _facts(job)
        frames = list(possible_frames(*sides))
        level = shared_level(*sides)
        return ReasonGrammar(self, frames, member, job, level) if frames else None


@dataclass(frozen=True)
class ReasonGrammar:
    """What may be said of one pair of texts."""

    tokens: ReasonTokens
    frames: Sequence[Frame]
    member: FactTokens
    job: FactTokens
    level: str | None

    def lattice(self) -> Lattice:
        """Every sentence with the token that ends an answer; equal ends stand in it once."""
        start: Branches = {}
        tail = self._tail()
        jobs = {frame.job_kind: self._quoted(self.job, frame.job_kind, tail) for frame in FRAMES}
        for (opening, kind), frames in groupby(self.frames, lambda f: (f.opening, f.member_kind)):
            middle: Branches = {}
            for frame in frames:
                insert(middle, self._before_quote(frame.middle), jobs[frame.job_kind])
            quoted = self._quoted(self.member, kind, middle)
            insert(start, self._before_quote(opening), quoted)
        return Lattice.of(start)

    def read(self, tokens: Sequence[int]) -> Reason:
        """The sentence of one way through the lattice. Raises ReasonUnreadableError for others.

        Facts are those of the texts, letter by letter, which tokens alone may not keep.
        """
        words = self.tokens.words
        try:
            opening, ours, middle, theirs, *tail = self._parts(tokens)
            frame = next(
                frame
                for frame in self.frames
                if (words(frame.opening), words(frame.middle)) == (opening, middle)
            )
            return Reason(
                frame,
                _named(self.member, frame.member_kind, ours),
                _named(self.job, frame.job_kind, theirs),
                self.level if len(tail) == 3 else None,
            )
        except (ValueError, StopIteration, KeyError) as error:
            raise ReasonUnreadableError(
                "an engine wrote what is no sentence of its grammar; engine and API must serve "
                "the same reasoner"
            ) from error

    def _tail(self) -> Branches:
        """What follows the job's fact: the level that both state, or the end."""
        tail: Branches = {}
        done: Branches = {}
        ending = (*self.tokens.words(END), self.tokens.end)
        insert(tail, ending, done)
        if self.level is not None:
            level = self.job[LEVEL][self.level]
            stated = (*self._before_quote(LEVEL_TAIL), *level, self.tokens.close)
            insert(tail, (*stated, *ending), done)
        return tail

    def _quoted(self, side: FactTokens, kind: str, after: Branches) -> Branches:
        facts: Branches = {}
        for tokens in side.get(kind, {}).values():
            insert(facts, (*tokens, self.tokens.close), after)
        return facts

    def _before_quote(self, words: str) -> Tokens:
        return (*self.tokens.words(words), self.tokens.open)

    def _parts(self, tokens: Sequence[int]) -> Iterator[Tokens]:
        """What stands between quotes, outside and inside by turns."""
        quotes = (self.tokens.open, self.tokens.close)
        for is_quote, part in groupby(tokens, quotes.__contains__):
            if not is_quote:
                yield tuple(part)


def _texts(side: Facts) -> Iterator[str]:
    for facts in side.by_kind.values():
        yield from facts[:MOST_FACTS]


def _tokens_of(side: Facts, known: Mapping[str, Tokens]) -> FactTokens:
    """Facts too long to be quoted are left out, and kinds without any."""
    return {
        kind: kept
        for kind, facts in side.by_kind.items()
        if (
            kept := {
                fact: known[fact]
                for fact in facts[:MOST_FACTS]
                if 0 < len(known[fact]) <= MOST_FACT_TOKENS
            }
        )
    }


def _facts(side: FactTokens) -> Facts:
    return Facts({kind: tuple(facts) for kind, facts in side.items()})


def _named(side: FactTokens, kind: str, tokens: Tokens) -> str:
    return next(fact for fact, known in side[kind].items() if known == tokens)
