"""Every fault that a body can have is said in our own words, with what to send instead."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.base.config import Settings
from service.base.errors import InvalidRequestError
from service.bodies.fault_words import fault_words
from service.bodies.validation import parse_policy_request, parse_rank_request

GOOD: dict[str, Any] = {"context": "Nurse", "candidates": [{"id": "a", "text": "b"}]}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"candidates": [{"id": 5, "text": "b"}]},
            "candidates[0].id is no text; write it in quotes",
        ),
        (
            {"candidates": [{"id": "", "text": "b"}]},
            "candidates[0].id is empty; send at least 1 ch",
        ),
        ({"candidates": [{"text": "b"}]}, "candidates[0].id is missing; send it"),
        ({"candidates": ["a"]}, "candidates[0] is no object; send one in braces"),
        ({"candidates": [GOOD["candidates"][0] | {"metadata": 3}]}, "metadata is no object; send"),
        ({"candidates": 5}, "candidates is no list; send one in brackets"),
        ({"top_n": 0}, "top_n is too small; send at least 1"),
        ({"top_n": 1.5}, "top_n is no whole number; send one"),
        ({"top_n": "x"}, "top_n is no whole number; send one"),
        ({"return_documents": "perhaps"}, "return_documents is neither true nor false; send one"),
        ({"return_documents": []}, "return_documents is neither true nor false; send one"),
        ({"truncation": "cut"}, "truncation is unknown; use 'truncate' or 'error'"),
        ({"context": 5}, "context is no text; write it in quotes"),
    ],
)
def test_a_fault_of_a_slate_is_said_with_what_to_send(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_rank_request(json.dumps(GOOD | wrong).encode(), Settings())
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"[]", "body is no object; send one in braces"),
        (b"{}", "policy is missing; send it"),
        (b'{"policy": "random"}', "policy is unknown; use 'dlpm', 'vtc', 'lpm', 'fcfs' or 'hrrn'"),
    ],
)
def test_a_fault_of_a_policy_is_said_with_what_to_send(body: bytes, said: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_policy_request(body)
    assert str(caught.value) == said


def test_a_fault_without_words_of_ours_is_told_as_it_came() -> None:
    """Also with braces in it, which what was sent may have."""
    told = fault_words({"type": "value_error", "loc": ("a",), "msg": "no {x}", "input": "{x}"})
    assert told == "is refused: no {x}"
