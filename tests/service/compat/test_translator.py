"""Refusals of the native route come back in the words that were sent. Over HTTP: tests/e2e."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from models.directory import ModelDirectory
from service.base.config import Settings
from service.base.errors import EngineAbsentError, InvalidRequestError
from service.compat.asked import Served
from service.compat.translator import Translator
from service.walk.ranking import Parse
from service.walk.reception import Call

GOOD = {"query": "Nurse", "documents": ["a", "b"]}


def refused(body: Any, error: Exception | None = None) -> Exception:
    """What a call ends with whose slate meets `error`, or none before it is parsed."""

    async def rank(call: Call, parse: Parse) -> dict[str, Any]:
        parse(await call.read_body(), Settings())
        raise error or AssertionError("the body should be refused")

    async def read_body() -> bytes:
        return body if isinstance(body, bytes) else json.dumps(body).encode()

    translator = Translator(rank, Served("ranker", 256, None))
    with pytest.raises(Exception) as caught:  # noqa: PT011
        asyncio.run(translator.rerank(Call("mine", None, read_body)))
    return caught.value


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        (GOOD | {"query": " "}, "query", "query is empty; send at least 1 visible character"),
        (GOOD | {"documents": []}, "documents", "documents is empty; send at least 1"),
        (GOOD | {"documents": ["a", {"text": ""}]}, "documents[1]", "documents[1] is empty; send"),
        ({"query": "a", "texts": ["a", ""]}, "texts[1]", "texts[1] is empty; send"),
        (GOOD | {"deadline_ms": 10**6}, "deadline_ms", "allow less, or send fewer documents"),
    ],
)
def test_limits_of_the_native_route_hold(body: Any, param: str, said: str) -> None:
    error = refused(body)
    assert isinstance(error, InvalidRequestError)
    assert error.param == param
    assert said in str(error)


@pytest.mark.parametrize(
    ("later", "said", "param"),
    [
        (
            InvalidRequestError(
                'candidates[1].text is long; send truncation "truncate"',
                param="candidates[1].text",
            ),
            "texts[1] is long; send truncate true",
            "texts[1]",
        ),
        (
            InvalidRequestError("priority 'context' is not open; use candidates", param="priority"),
            "priority 'context' is not open; use candidates",
            "priority",
        ),
    ],
)
def test_a_refusal_advises_what_its_client_may_send(
    later: InvalidRequestError, said: str, param: str
) -> None:
    error = refused({"query": "a", "texts": ["a", "b"]}, later)
    assert isinstance(error, InvalidRequestError)
    assert (str(error), error.param) == (said, param)


def test_a_null_says_nothing() -> None:
    nulls = {"texts": None, "rank_fields": None, "max_chunks_per_doc": None, "top_n": None}
    scored = EngineAbsentError("as far as this")
    assert refused(GOOD | nulls, scored) is scored
    error = refused(GOOD | {"query": None})
    assert str(error) == "query is missing; send it"


@pytest.mark.parametrize(("body", "code"), [(b"{", "invalid_json"), (b"\xff", "invalid_utf8")])
def test_what_is_no_json_is_refused_as_such(body: bytes, code: str) -> None:
    error = refused(body)
    assert isinstance(error, InvalidRequestError)
    assert error.code == code


def test_a_later_refusal_is_renamed_and_keeps_its_code() -> None:
    later = InvalidRequestError(
        "candidates[1].text is cut; shorten", code="c", param="candidates[1].text"
    )
    error = refused(GOOD, later)
    assert isinstance(error, InvalidRequestError)
    assert (str(error), error.code, error.param) == (
        "documents[1] is cut; shorten",
        "c",
        "documents[1]",
    )


@pytest.mark.parametrize(
    "error", [EngineAbsentError("no candidates"), InvalidRequestError("no candidates")]
)
def test_what_names_no_field_is_told_as_it_is(error: Exception) -> None:
    assert refused(GOOD, error) is error


def test_a_served_model_says_what_may_be_named(tiny_directory: ModelDirectory) -> None:
    card, prompt = tiny_directory.card, tiny_directory.prompt
    served = Served.of(card, prompt)
    assert served == Served(card.name, card.truncation.max_candidate_tokens, prompt.label_ids)
