"""Holds a decoder to sentences about facts of its input, token by token. Knows no weights.

All sentences that two texts allow form a trie of tokens. What the model decides is which way to go
where paths part: the kind of reason, whose fact, and whether to state the level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus

from compress.reasons.facts import Facts, job_facts, member_facts
from compress.reasons.frames import Reason, possible_frames, shared_level
from models.errors import FairslateError

EncodeBatch = Callable[[list[str]], list[list[int]]]
_Trie = dict[int, "_Trie"]


class NoReasonError(FairslateError):
    """Texts of which no sentence can be made, because no facts are found in them."""

    status = HTTPStatus.BAD_REQUEST
    code = "no_reason"


class ReasonRule:
    """A `compress.decoders.decoding.TokenRule` for one pair of texts.

    encode: tokens of every sentence; end: the token that ends an answer.
    """

    def __init__(self, member_text: str, job_text: str, encode: EncodeBatch, end: int) -> None:
        reasons = list(possible_reasons(member_facts(member_text), job_facts(job_text)))
        if not reasons:
            raise NoReasonError(
                "no fact of both texts goes into a sentence; send tasks, tools, skills, knowledge "
                "or a headline of the member and a title, duties or tools of the job"
            )
        self._place: _Trie = {}
        for tokens in encode([str(reason) for reason in reasons]):
            _insert(self._place, [*tokens, end])

    def allowed(self) -> Sequence[int]:
        return list(self._place)

    def advance(self, token: int) -> None:
        self._place = self._place[token]


def possible_reasons(member: Facts, job: Facts) -> Iterator[Reason]:
    """Every sentence that names only facts of these texts."""
    level = shared_level(member, job)
    for frame in possible_frames(member, job):
        for member_fact in member.of(frame.member_kind):
            for job_fact in job.of(frame.job_kind):
                yield Reason(frame, member_fact, job_fact)
                if level:
                    yield Reason(frame, member_fact, job_fact, level)


def _insert(trie: _Trie, tokens: Sequence[int]) -> None:
    for token in tokens:
        trie = trie.setdefault(token, {})
