"""What another service's body asks for: a native request, and how its answer is told there.

Knows no form of either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.card import ModelCard
from models.prompt import PromptBuilder
from service.base.errors import InvalidRequestError, ModelNotFoundError
from service.bodies.schemas import Candidate, RankRequest
from service.compat.answers import Answer
from service.compat.bodies import ForeignBody
from service.slates.described import label_ids

TRUNCATE = 'truncation "truncate"'  # as refusals advise it
_PLACE = re.compile(rf"(?P<field>context|candidates|{TRUNCATE})(?P<index>\[\d+\])?(\.text)?")


@dataclass(frozen=True, slots=True)
class Served:
    """What a body may name: the model, the most tokens of a candidate, the tokens of its labels.

    label_ids: of yes and no; None of a model that answers with heads.
    """

    name: str
    max_candidate_tokens: int
    label_ids: tuple[int, int] | None

    @classmethod
    def of(cls, card: ModelCard, prompt: PromptBuilder) -> Served:
        """The model that a ranker serves."""
        return cls(card.name, card.truncation.max_candidate_tokens, label_ids(prompt))


@dataclass(frozen=True, slots=True)
class Asked:
    """names: the fields that were sent, by those of the native request, and other words of it."""

    request: RankRequest
    names: Mapping[str, str]
    tell: Callable[[Answer], Any]

    def renamed(self, error: InvalidRequestError) -> InvalidRequestError:
        """The same refusal, of the field that was sent."""
        if error.param is None or error.param == "priority":  # that one quotes what was sent
            return error
        message, param = _PLACE.sub(self._sent, str(error)), _PLACE.sub(self._sent, error.param)
        return InvalidRequestError(message, code=error.code, param=param)

    def _sent(self, place: re.Match[str]) -> str:
        return self.names.get(place["field"], place["field"]) + (place["index"] or "")


def native(
    body: ForeignBody, served: Served, context: str, texts: Sequence[str], **options: Any
) -> RankRequest:
    """The request for one slate; candidates are called by their positions.

    Raises ModelNotFoundError for a model that is not this server's.
    """
    if body.model not in (None, served.name):
        raise ModelNotFoundError(
            f"model {body.model!r} is not served here; send {served.name!r}, or leave it out",
            param="model",
        )
    listed = [Candidate(id=str(index), text=text) for index, text in enumerate(texts)]
    own = body.model_dump(include={"prompt", "deadline_ms", "user", "priority"})
    return RankRequest(context=context, candidates=listed, **own, **options)
