"""Bodies either become a request or one refusal; over HTTP each refusal is tested in tests/e2e."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.base.config import Settings
from service.base.errors import InvalidRequestError
from service.bodies.schemas import RankRequest
from service.bodies.validation import parse_rank_request, ranking_head

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
FIELDS = ("context", "candidates", "top_n", "deadline_ms", "prompt", "extra")
VISIBLE = st.text(min_size=1).filter(lambda text: bool(text.strip()))


@given(st.binary())
def test_any_bytes_are_refused_or_parsed(body: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        parse_rank_request(body, Settings())


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, JSON)))
def test_any_json_is_refused_by_name_or_parsed(body: dict[str, Any]) -> None:
    refusal = refusal_of(json.dumps(body).encode())
    assert refusal is None or refusal.param is not None or refusal.code == "invalid_json"


GOOD: dict[str, Any] = {"context": "x", "candidates": [{"id": "a", "text": "b"}]}
MANY = {f"unknown-{number}": 1 for number in range(1_000)}


@pytest.mark.parametrize(
    "wrong",
    [
        GOOD | {"candidates": [{}] * 500},
        GOOD | {"candidates": [{"id": "a", "text": "b", **MANY}]},
        GOOD | {"context": MANY},
        GOOD | MANY,
    ],
    ids=["candidates", "fields of a candidate", "fields of the context", "fields"],
)
def test_of_many_faults_only_the_first_is_written_up(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        RankRequest.model_validate(wrong)
    assert caught.value.error_count() <= 2


@pytest.mark.parametrize(
    ("content", "param", "message"),
    [
        ({}, "text", "text is missing; send it, or embedding"),
        ({"text": None}, "text", "text is missing"),
        ({"text": "b", "embedding": "c"}, "embedding", "both text and embedding"),
        ({"embedding": " "}, "embedding", "empty"),
        ({"embedding": "c" * 257}, "embedding", "257 characters; the limit is 256"),
        ({"embedding": 3}, "embedding", "is no text; write it in quotes"),
    ],
    ids=["neither", "nothing", "both", "blank", "long", "number"],
)
def test_a_candidate_is_either_a_text_or_an_entry(
    content: dict[str, Any], param: str, message: str
) -> None:
    candidates = [{"id": "a", "text": "b"}, {"id": "c", **content}]
    refusal = refusal_of(json.dumps(GOOD | {"candidates": candidates}).encode())
    assert refusal is not None
    assert refusal.param == f"candidates[1].{param}"
    assert message in str(refusal)


@pytest.mark.parametrize(
    ("wrong", "param", "fields"),
    [
        (GOOD | {"topn": 3}, "topn", "context, deadline_ms.*, top_n"),
        ({"candidate": []}, "candidate", "context, .*, candidates"),
        (
            GOOD | {"candidates": [{"id": "a", "txt": "b"}]},
            r"candidates\[0\].txt",
            "id, text, embed",
        ),
        (GOOD | {"candidates": [{"text": "b", "key": "a"}]}, r"candidates\[0\].key", "id, text"),
    ],
    ids=["option", "mistyped", "mistyped in a candidate", "beside a missing one"],
)
def test_an_unknown_field_is_named_with_those_there_are(
    wrong: dict[str, Any], param: str, fields: str
) -> None:
    with pytest.raises(InvalidRequestError, match=f"{param} is no field here; use {fields}"):
        parse_rank_request(json.dumps(wrong).encode(), Settings())


@pytest.mark.parametrize(
    ("context", "param"),
    [
        (None, "context"),
        (5, "context"),
        (["a"], "context"),
        ({"headline": None}, "context.headline"),
        ({"headline": "x", "skills": 5}, "context.skills"),
    ],
)
def test_a_context_of_a_wrong_type_is_named_as_it_was_sent(context: Any, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_rank_request(json.dumps(GOOD | {"context": context}).encode(), Settings())
    assert caught.value.param == param
    assert str(caught.value).startswith(f"{param} is no text; write it in quotes")


def test_a_slate_above_the_limit_is_refused_before_its_candidates_are_looked_at() -> None:
    refusal = refusal_of(json.dumps(GOOD | {"candidates": [{}] * 513}).encode())
    assert refusal is not None
    assert refusal.code == "too_many_candidates"


@pytest.mark.parametrize(
    ("value", "place"), [("1e999", ".x"), ("[1, -1e999, 1e999]", ".x[1]"), ('{"y": 1e999}', ".x.y")]
)
def test_infinite_metadata_is_named_once(value: str, place: str) -> None:
    metadata = f'"metadata": {{"w": 1.5, "x": {value}}}'
    body = f'{{"context": "x", "candidates": [{{"id": "a", "text": "b", {metadata}}}]}}'
    refusal = refusal_of(body.encode())
    assert refusal is not None
    assert refusal.param == f"candidates[0].metadata{place}"


def refusal_of(body: bytes) -> InvalidRequestError | None:
    try:
        parse_rank_request(body, Settings())
    except InvalidRequestError as error:
        return error
    return None


@given(VISIBLE, st.lists(VISIBLE, min_size=1, max_size=5))
def test_good_request_is_kept_as_it_is(context: str, texts: list[str]) -> None:
    body = {
        "context": context,
        "candidates": [{"id": str(index), "text": text} for index, text in enumerate(texts)],
        "top_n": 3,
    }
    request = parse_rank_request(json.dumps(body).encode(), Settings())
    assert request.model_dump(exclude_unset=True) == body


def test_limits_come_from_the_settings() -> None:
    candidates = [{"id": str(index), "text": "Job"} for index in range(3)]
    body = json.dumps({"context": "Nurse", "candidates": candidates}).encode()
    assert len(parse_rank_request(body, Settings(max_candidates=3)).candidates) == 3
    with pytest.raises(InvalidRequestError, match="3 entries; the limit is 2; send the rest"):
        parse_rank_request(body, Settings(max_candidates=2))


def test_an_unknown_head_is_refused_with_those_there_are() -> None:
    assert ranking_head(None, ["click", "apply"]) == "click"
    assert ranking_head("apply", ["click", "apply"]) == "apply"
    with pytest.raises(InvalidRequestError, match=r"'buy' .* heads: click, apply") as refusal:
        ranking_head("buy", ["click", "apply"])
    assert (refusal.value.code, refusal.value.param) == ("unknown_head", "rank_by")
