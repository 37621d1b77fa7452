"""Answers calls in other services' words by the ranker. Knows no HTTP and none of the words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from service.base.config import Settings
from service.base.errors import InvalidRequestError
from service.bodies.schemas import RankRequest
from service.bodies.validation import check_request, read_json
from service.compat.answers import Answer
from service.compat.asked import Asked, Served
from service.compat.rerank import read_rerank
from service.compat.score import read_score
from service.walk.ranking import Parse
from service.walk.reception import Call

Read = Callable[[Any, Settings, Served], Asked]


class Translator:
    """One per ranker; `rank` is its method."""

    def __init__(self, rank: Callable[[Call, Parse], Awaitable[Answer]], served: Served) -> None:
        self._rank = rank
        self._served = served

    async def rerank(self, call: Call) -> Any:
        """Raises FairslateError; a cancelled call takes its jobs out of the queue."""
        return await self._answered(call, read_rerank)

    async def score(self, call: Call) -> Any:
        """Raises and is cancelled as `rerank`."""
        return await self._answered(call, read_score)

    async def _answered(self, call: Call, read: Read) -> Any:
        asked: list[Asked] = []  # at most the one

        def parse(body: bytes, settings: Settings) -> RankRequest:
            asked.append(read(_said(read_json(body)), settings, self._served))
            check_request(asked[0].request, settings)
            return asked[0].request

        try:
            answer = await self._rank(call, parse)
        except InvalidRequestError as error:
            if asked and error.param:
                raise asked[0].renamed(error) from None
            raise
        return asked[0].tell(answer)


def _said(raw: Any) -> Any:
    """A body without its nulls: many clients write one for whatever they leave out."""
    if not isinstance(raw, dict):
        return raw
    return {name: value for name, value in raw.items() if value is not None}
