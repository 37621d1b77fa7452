"""Bodies of Cohere, Jina, vLLM, Infinity and TEI become one native request, or one refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import FairslateError
from service.base.config import Settings
from service.base.errors import InvalidRequestError, ModelNotFoundError
from service.bodies.schemas import RankRequest
from service.compat.asked import Asked, Served
from service.compat.rerank import read_rerank

SERVED = Served("ranker", 256, (6, 7))
SETTINGS = Settings(max_candidates=3)
GOOD: dict[str, Any] = {"query": "Nurse", "documents": ["a", "b"]}
TEI: dict[str, Any] = {"query": "Nurse", "texts": ["a", "b"]}
ANSWER: dict[str, Any] = {
    "model": {"name": "ranker", "version": "1", "digest": "d"},
    "ranked_by": "score",
    "results": [
        {"id": "1", "index": 1, "score": 0.75, "raw_logit": 2.0, "status": "ok", "text": "b"},
        {"id": "0", "index": 0, "score": 0.25, "raw_logit": -2.0, "status": "truncated"},
    ],
    "usage": {
        "context_tokens": 5,
        "cached_tokens": 4,
        "candidate_tokens": 6,
        "extend_tokens": 7,
        "reused_candidates": 0,
    },
    "context_status": "ok",
    "timings_ms": {"queue": 1.0, "tokenize": 1.0, "score": 1.0, "total": 3.0},
    "request_id": "mine-1",
}


def test_documents_are_candidates_called_by_their_positions() -> None:
    body = GOOD | {"documents": ["a", {"text": "b"}], "top_n": 1, "return_documents": True}
    request = read_rerank(body, SETTINGS, SERVED).request
    assert request.context == "Nurse"
    assert [(one.id, one.text) for one in request.candidates] == [("0", "a"), ("1", "b")]
    assert (request.top_n, request.return_documents) == (1, True)


@pytest.mark.parametrize("body", [GOOD, TEI])
def test_what_is_left_out_is_as_of_the_native_route(body: dict[str, Any]) -> None:
    request = read_rerank(body, SETTINGS, SERVED).request
    given = request.model_dump(exclude={"context", "candidates"})
    defaults = type(request)(context="x", candidates=[]).model_dump()
    assert given == {name: defaults[name] for name in given}


def test_own_fields_of_the_native_route_are_handed_on() -> None:
    own = {"prompt": "p", "deadline_ms": 70, "user": "u", "priority": "batch"}
    request = read_rerank(GOOD | own, SETTINGS, SERVED).request
    assert {name: getattr(request, name) for name in own} == own


@pytest.mark.parametrize("body", [GOOD, TEI])
@pytest.mark.parametrize(("top_n", "kept"), [(0, None), (None, None), (2, 2)])
def test_none_of_the_best_means_all(
    top_n: int | None, kept: int | None, body: dict[str, Any]
) -> None:
    assert read_rerank(body | {"top_n": top_n}, SETTINGS, SERVED).request.top_n == kept


def test_an_answer_has_what_the_clients_of_cohere_jina_and_vllm_read() -> None:
    told = read_rerank(GOOD, SETTINGS, SERVED).tell(ANSWER)
    assert (told["id"], told["object"], told["model"]) == ("mine-1", "rerank", "ranker")
    assert told["usage"]["prompt_tokens"] == told["usage"]["total_tokens"] == 11
    assert told["results"] == [
        {"index": 1, "relevance_score": 0.75, "status": "ok", "document": {"text": "b"}},
        {"index": 0, "relevance_score": 0.25, "status": "truncated"},
    ]


@pytest.mark.parametrize("raw", [{"raw_scores": True}, {"use_activation": False}])
def test_raw_scores_are_log_odds(raw: dict[str, Any]) -> None:
    told = read_rerank(GOOD | raw, SETTINGS, SERVED).tell(ANSWER)
    assert [row["relevance_score"] for row in told["results"]] == [2.0, -2.0]


def test_teis_answer_is_a_bare_list() -> None:
    asked = read_rerank(TEI | {"return_text": True}, SETTINGS, SERVED)
    assert asked.request.return_documents
    rows = [{"index": 1, "score": 0.75, "text": "b"}, {"index": 0, "score": 0.25}]
    assert asked.tell(ANSWER) == rows
    raw = read_rerank(TEI | {"raw_scores": True}, SETTINGS, SERVED).tell(ANSWER)
    assert [row["score"] for row in raw] == [2.0, -2.0]


@pytest.mark.parametrize(
    ("truncate", "kept"), [(None, "truncate"), (True, "truncate"), (False, "error")]
)
def test_tei_may_refuse_what_would_be_cut(truncate: bool | None, kept: str) -> None:
    assert read_rerank(TEI | {"truncate": truncate}, SETTINGS, SERVED).request.truncation == kept


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"query": "a"}, "documents", "documents is missing; send it"),
        (GOOD | {"top_k": 3}, "top_k", "top_k is no field here; use model, "),
        (GOOD | {"documents": [4]}, "documents[0]", "is neither text nor an object with text"),
        (GOOD | {"documents": [{"text": 4}]}, "documents[0].text", "is no text; write it in"),
        (GOOD | {"documents": ["a"] * 4}, "documents", "documents has 4 entries; the limit is 3"),
        (TEI | {"texts": ["a"] * 4}, "texts", "texts has 4 entries; the limit is 3"),
        (TEI | {"documents": []}, "texts", "texts is no field here; use model"),
        (TEI | {"truncation_direction": "left"}, "truncation_direction", "use 'right' or 'Right'"),
        (GOOD | {"max_tokens_per_doc": 255}, "max_tokens_per_doc", "this model reads 256"),
        ([], None, "body is no object"),
    ],
)
def test_a_fault_is_named_as_it_was_sent(body: Any, param: str | None, said: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_rerank(body, SETTINGS, SERVED)
    assert caught.value.param == param
    assert said in str(caught.value)


@pytest.mark.parametrize("limit", [{"max_tokens_per_doc": 256}, {"truncate_prompt_tokens": -1}])
def test_a_limit_that_changes_nothing_is_taken(limit: dict[str, int]) -> None:
    assert read_rerank(GOOD | limit, SETTINGS, SERVED).request


@pytest.mark.parametrize("body", [GOOD, TEI])
def test_another_model_is_not_answered_for(body: dict[str, Any]) -> None:
    assert read_rerank(body | {"model": "ranker"}, SETTINGS, SERVED).request
    with pytest.raises(ModelNotFoundError, match="'rerank-v4' is not served here; send 'ranker'"):
        read_rerank(body | {"model": "rerank-v4"}, SETTINGS, SERVED)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)
FIELDS = ("query", "documents", "texts", "top_n", "model", "extra")


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, JSON)))
def test_any_json_is_read_or_refused(body: dict[str, Any]) -> None:
    read = read_or_refused(read_rerank, body)
    if isinstance(read, RankRequest):
        assert read.context == body["query"]
    else:
        assert read.param


def read_or_refused(
    read: Callable[[Any, Settings, Served], Asked], body: Any
) -> RankRequest | FairslateError:
    try:
        return read(body, SETTINGS, SERVED).request
    except (InvalidRequestError, ModelNotFoundError) as refusal:
        return refusal
