"""What the OpenAPI document says of bodies is what the routes take. Routes: test_routes."""

from __future__ import annotations

from typing import Any

import pytest

from service.edge.openapi import openapi


def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = openapi()["components"]["schemas"][name]
    return found


def test_a_document_may_be_text() -> None:
    assert schema("Document")["type"] == ["string", "object"]


@pytest.mark.parametrize(
    ("body", "field"), [("ItemsBody", "items"), ("PairsBody", "queries"), ("PairsBody", "text_2")]
)
def test_one_text_may_stand_for_a_list(body: str, field: str) -> None:
    described = schema(body)["properties"][field]
    assert (described["type"], described["items"]) == (["string", "array"], {"type": "string"})


def test_vllms_body_has_each_side_under_one_of_its_names() -> None:
    sides = [[one["required"] for one in side["oneOf"]] for side in schema("PairsBody")["allOf"]]
    assert sides == [
        [["queries"], ["text_1"], ["data_1"]],
        [["documents"], ["text_2"], ["items"], ["data_2"]],
    ]
    named = {name for side in sides for [name] in side}
    assert named <= set(schema("PairsBody")["properties"])
    assert "required" not in schema("PairsBody")


@pytest.mark.parametrize(
    ("path", "answers"),
    [("/rerank", {"RerankAnswer", "TextsAnswer"}), ("/score", {"ItemsAnswer", "PairsAnswer"})],
)
def test_every_form_of_an_answer_is_described(path: str, answers: set[str]) -> None:
    answer = openapi()["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]
    named = {form["$ref"].rpartition("/")[2] for form in answer["schema"]["anyOf"]}
    assert named == answers
    assert schema("TextsAnswer")["type"] == "array"
