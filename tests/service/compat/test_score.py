"""Bodies of SGLang and vLLM become one native request, or one refusal; scores come in its order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.base.config import Settings
from service.base.errors import InvalidRequestError, ModelNotFoundError
from service.bodies.schemas import RankRequest
from service.compat.asked import Served
from service.compat.score import read_score
from tests.service.compat.test_rerank import ANSWER, JSON, read_or_refused

SERVED = Served("ranker", 256, (6, 7))
SETTINGS = Settings(max_candidates=3)
ITEMS: dict[str, Any] = {"query": "Nurse", "items": ["a", "b"]}
LABELS = {"label_token_ids": [6, 7], "apply_softmax": True}
LIKELY = 0.8807970779778823  # sigmoid of 2


def test_items_are_candidates_and_scored_in_their_order() -> None:
    asked = read_score(ITEMS | {"item_first": False}, SETTINGS, SERVED)
    assert asked.request.context == "Nurse"
    assert [one.text for one in asked.request.candidates] == ["a", "b"]
    told = asked.tell(ANSWER)
    assert told["scores"] == [[0.25], [0.75]]
    assert (told["object"], told["model"], told["truncated"]) == ("scoring", "ranker", [0])


def test_one_item_may_be_text() -> None:
    request = read_score(ITEMS | {"items": "a"}, SETTINGS, SERVED).request
    assert [one.text for one in request.candidates] == ["a"]


@pytest.mark.parametrize(
    ("labels", "second"),
    [([6, 7], [LIKELY, 1 - LIKELY]), ([7, 6], [1 - LIKELY, LIKELY])],
)
def test_labels_are_columns_in_the_order_asked(labels: list[int], second: list[float]) -> None:
    body = ITEMS | LABELS | {"label_token_ids": labels}
    scores = read_score(body, SETTINGS, SERVED).tell(ANSWER)["scores"]
    assert scores[1] == pytest.approx(second, rel=1e-12)


def test_shares_of_extreme_log_odds_are_numbers() -> None:
    odds_of = (2000, -2000)
    rows = [row | {"raw_logit": odds} for row, odds in zip(ANSWER["results"], odds_of, strict=True)]
    told = read_score(ITEMS | LABELS, SETTINGS, SERVED).tell(ANSWER | {"results": rows})
    assert told["scores"] == [[0.0, 1.0], [1.0, 0.0]]


@pytest.mark.parametrize("first", ["queries", "text_1", "data_1"])
@pytest.mark.parametrize("second", ["documents", "items", "text_2", "data_2"])
def test_pairs_have_every_name_that_vllm_gives_them(first: str, second: str) -> None:
    asked = read_score({first: "Nurse", second: ["a", "b"]}, SETTINGS, SERVED)
    assert asked.request.context == "Nurse"
    assert [one.text for one in asked.request.candidates] == ["a", "b"]
    told = asked.tell(ANSWER)
    assert told["object"] == "list"
    assert told["data"] == [
        {"index": 0, "object": "score", "score": 0.25, "status": "truncated"},
        {"index": 1, "object": "score", "score": 0.75, "status": "ok"},
    ]


@pytest.mark.parametrize("queries", ["Nurse", ["Nurse"], ["Nurse", "Nurse"]])
def test_pairs_of_one_query_are_one_slate(queries: Any) -> None:
    body = {"text_1": queries, "text_2": ["a", "b"], "use_activation": False}
    asked = read_score(body, SETTINGS, SERVED)
    assert asked.request.context == "Nurse"
    assert [row["score"] for row in asked.tell(ANSWER)["data"]] == [-2.0, 2.0]


def test_what_vllms_clients_send_and_changes_nothing_is_taken() -> None:
    own = {"truncate_prompt_tokens": -1, "encoding_format": "float", "user": "u"}
    assert read_score({"text_1": "a", "text_2": "b"} | own, SETTINGS, SERVED).request.user == "u"


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        (ITEMS | {"item_first": True}, "item_first", "reads the query first, so leave it out"),
        (ITEMS | LABELS | {"label_token_ids": [6, 9]}, "label_token_ids", "which has 6 and 7"),
        (ITEMS | LABELS | {"label_token_ids": [6]}, "label_token_ids", "which has 6 and 7"),
        (ITEMS | LABELS | {"label_token_ids": []}, "label_token_ids", "which has 6 and 7"),
        (ITEMS | LABELS | {"label_token_ids": [6, 7, 6]}, "label_token_ids", "send each once"),
        (ITEMS | {"label_token_ids": [6, 7]}, "apply_softmax", "so send true, or no label_token"),
        (ITEMS | {"query": [1, 2]}, "query", "query is no text; write it in quotes"),
        (ITEMS | {"items": [[1, 2]]}, "items[0]", "items[0] is no text; write it in quotes"),
        (ITEMS | {"items": ["a"] * 4}, "items", "items has 4 entries; the limit is 3"),
        ({"items": ["a"]}, "query", "query is missing; send it"),
        ({"text_1": "a", "text_2": "b", "top": 1}, "top", "priority, text_1, text_2, use_activ"),
        ({"text_1": "a", "text_2": ["b"] * 4}, "text_2", "text_2 has 4 entries; the limit is 3"),
        ({"text_1": ["a"] * 4, "text_2": "b"}, "text_1", "text_1 has 4 entries; the limit is 3"),
        ({"text_1": "a", "text_2": [4]}, "text_2[0]", "text_2[0] is no text; write it in quotes"),
        ({"data_1": 4, "data_2": ["b"]}, "data_1", "data_1 is no list; send one in brackets"),
        ({"data_1": [], "data_2": ["b"]}, "data_1", "data_1 is empty; send at least 1"),
        (
            {"text_1": "a", "text_2": "b", "truncate_prompt_tokens": 9},
            "truncate_prompt_tokens",
            "truncate_prompt_tokens is unknown; use -1",
        ),
        (
            {"text_1": "a", "text_2": "b", "encoding_format": "base64"},
            "encoding_format",
            "encoding_format is unknown; use 'float'",
        ),
        ({"text_1": "a"}, "documents", "documents is missing; send it"),
        ({"text_1": "a", "data_1": "a", "text_2": "b"}, "data_1", "means the same as text_1"),
        ({"text_1": ["a", "b"], "text_2": ["c", "d"]}, "text_1", "2 of them different, beside 2"),
        ({"text_1": ["a", "a"], "text_2": ["c"]}, "text_1", "send one, and a request for each"),
    ],
)
def test_a_fault_is_named_as_it_was_sent(body: Any, param: str, said: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_score(body, SETTINGS, SERVED)
    assert caught.value.param == param
    assert said in str(caught.value)


def test_a_model_with_heads_has_no_labels_to_ask_for() -> None:
    served = replace(SERVED, label_ids=None)
    assert read_score(ITEMS, SETTINGS, served).tell(ANSWER)["scores"] == [[0.25], [0.75]]
    with pytest.raises(InvalidRequestError, match="which has no labels; send those, or leave"):
        read_score(ITEMS | LABELS, SETTINGS, served)


@pytest.mark.parametrize("body", [ITEMS, {"text_1": "a", "text_2": "b"}])
def test_another_model_is_not_answered_for(body: dict[str, Any]) -> None:
    assert read_score(body | {"model": "ranker"}, SETTINGS, SERVED).request
    with pytest.raises(ModelNotFoundError, match="'qwen' is not served here; send 'ranker'"):
        read_score(body | {"model": "qwen"}, SETTINGS, SERVED)


FIELDS = ("query", "items", "text_1", "text_2", "documents", "label_token_ids", "extra")


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, JSON)))
def test_any_json_is_read_or_refused(body: dict[str, Any]) -> None:
    read = read_or_refused(read_score, body)
    if isinstance(read, RankRequest):
        sent = body.get("query", body.get("text_1"))
        assert read.context in (sent, *(sent if isinstance(sent, list) else ()))
    else:
        assert read.param
