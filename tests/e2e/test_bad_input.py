"""Every refusal: its status, its code, and that the message names the field and the limit."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from service.bodies.schemas import ErrorEnvelope
from tests.e2e.server import RunningServer

GOOD: dict[str, Any] = {"context": "Nurse", "candidates": [{"id": "a", "text": "Job"}]}
ROWS: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "no candidates": ({"candidates": []}, 400, "no_candidates", "candidates"),
    "too many": (
        {"candidates": [{"id": str(n), "text": "Job"} for n in range(513)]},
        400,
        "too_many_candidates",
        "candidates",
    ),
    "duplicate ids": (
        {"candidates": [{"id": "a", "text": "Job"}] * 2},
        400,
        "duplicate_id",
        "candidates[1].id",
    ),
    "empty candidate": (
        {"candidates": [{"id": "a", "text": " \n"}]},
        400,
        "empty_text",
        "candidates[0].text",
    ),
    "empty context": ({"context": ""}, 400, "empty_text", "context"),
    "empty field": ({"context": {"headline": " "}}, 400, "empty_text", "context.headline"),
    "no fields": ({"context": {}}, 400, "empty_text", "context"),
    "unknown context field": (
        {"context": {"salary": "1"}},
        400,
        "invalid_prompt",
        "context.salary",
    ),
    "wrong type": (
        {"candidates": [{"id": 7, "text": "Job"}]},
        400,
        "invalid_request",
        "candidates[0].id",
    ),
    "string for a number": ({"top_n": "3"}, 400, "invalid_request", "top_n"),
    "zero top_n": ({"top_n": 0}, 400, "invalid_request", "top_n"),
    "unknown field": ({"topn": 3}, 400, "unknown_field", "topn"),
    "unknown prompt": ({"prompt": "none"}, 400, "invalid_prompt", "prompt"),
    "long id": (
        {"candidates": [{"id": "a" * 257, "text": "Job"}]},
        400,
        "field_too_long",
        "candidates[0].id",
    ),
    "long deadline": ({"deadline_ms": 30_001}, 400, "deadline_too_long", "deadline_ms"),
    "truncation refused": (
        {"candidates": [{"id": "a", "text": "Job " * 500}], "truncation": "error"},
        400,
        "text_too_long",
        "candidates[0].text",
    ),
}
LIMITS = {
    "too_many_candidates": "512",
    "field_too_long": "256",
    "deadline_too_long": "30000",
    "text_too_long": "96",
    "no_candidates": "1",
}


def refused(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    ErrorEnvelope.model_validate_json(response.content)
    error: dict[str, Any] = response.json()["error"]
    assert error["code"] == code
    assert error["request_id"] == response.headers["x-request-id"]
    return error


@pytest.mark.parametrize(("change", "status", "code", "param"), ROWS.values(), ids=ROWS.keys())
def test_bad_field_is_named(
    client: httpx.Client, change: dict[str, Any], status: int, code: str, param: str
) -> None:
    error = refused(client.post("/v1/rank", json=GOOD | change), status, code)
    assert error["param"] == param
    assert param.removeprefix("context.") in error["message"]
    assert LIMITS.get(code, "") in error["message"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param(b'{"context": "\xff"}', "invalid_utf8", id="utf-8"),
        pytest.param(b'{"context": "N', "invalid_json", id="cut off"),
        pytest.param(b"", "invalid_json", id="empty"),
        pytest.param(b'{"context": NaN}', "invalid_json", id="nan"),
        pytest.param(b'{"context": "\\ud800"}', "invalid_json", id="lone surrogate"),
        pytest.param(b"[" * 100_000, "invalid_json", id="deep"),
        pytest.param(b"[]", "invalid_request", id="not an object"),
    ],
)
def test_bad_body_is_refused(client: httpx.Client, body: bytes, code: str) -> None:
    refused(client.post("/v1/rank", content=body), 400, code)


def test_infinite_number_in_metadata_is_refused(client: httpx.Client) -> None:
    body = json.dumps(GOOD).replace('"text"', '"metadata": {"x": 1e999}, "text"')
    error = refused(client.post("/v1/rank", content=body), 400, "invalid_request")
    assert error["param"].startswith("candidates[0].metadata.x")


@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
def test_body_above_the_limit_is_refused(client: httpx.Client, chunked: bool) -> None:
    body = json.dumps(GOOD | {"context": "x" * (1 << 20)}).encode()
    content = iter([body[:1000], body[1000:]]) if chunked else body
    error = refused(client.post("/v1/rank", content=content), 413, "body_too_large")
    assert str(1 << 20) in error["message"]


@pytest.mark.parametrize("header", ["Bearer nobody's", "Basic abc", "Bearer", "Bearer key-of-adb"])
def test_unknown_key_is_refused(server: RunningServer, header: str) -> None:
    with server.client() as stranger:
        headers = {"authorization": header}
        response = stranger.post("/v1/rank", json=GOOD, headers=headers)
    refused(response, 401, "invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer"


def test_missing_key_is_refused_before_the_body_is_looked_at(server: RunningServer) -> None:
    with server.client() as stranger:
        refused(stranger.post("/v1/rank", content=b"not json"), 401, "invalid_api_key")


def test_unknown_route_and_wrong_method_get_the_envelope(client: httpx.Client) -> None:
    refused(client.post("/v1/embeddings", json=GOOD), 404, "route_not_found")
    refused(client.get("/favicon"), 404, "route_not_found")
    refused(client.get("/v1/rank"), 405, "method_not_allowed")
    assert client.get("/v1/rank").headers["allow"] == "POST"
    refused(client.delete("/v1/models"), 405, "method_not_allowed")
