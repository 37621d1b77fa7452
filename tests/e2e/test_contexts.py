"""Contexts read ahead over HTTP: the slate that follows pays for nothing but its candidates."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from service.bodies.schemas import ContextAnswer
from tests.e2e.server import RunningServer

BLOCK = 16
HISTORY = "A glassblower who teaches evening classes, repairs kilns and keeps a diary of failures."


def prewarm(client: httpx.Client, context: Any, **options: Any) -> dict[str, Any]:
    response = client.post("/v1/contexts", json={"context": context, **options})
    assert response.status_code == 200, response.text
    ContextAnswer.model_validate(response.json())
    answer: dict[str, Any] = response.json()
    return answer


def rank(client: httpx.Client, context: Any) -> dict[str, Any]:
    body = {"context": context, "candidates": [{"id": "a", "text": "Roofer"}]}
    response = client.post("/v1/rank", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_a_later_slate_of_the_same_context_is_warm(client: httpx.Client) -> None:
    context = {"headline": "Falconer at an airfield", "skills": "patience, weather, knots"}
    answer = prewarm(client, context)
    usage = answer["usage"]
    assert usage["cached_tokens"] < usage["context_tokens"] == answer["usage"]["context_tokens"]
    assert usage["extend_tokens"] == usage["context_tokens"] - usage["cached_tokens"]
    assert usage["candidate_tokens"] == 0
    later = rank(client, context)["usage"]
    assert later["cached_tokens"] == later["context_tokens"] == usage["context_tokens"]
    assert later["extend_tokens"] == later["candidate_tokens"]
    assert prewarm(client, context)["usage"]["extend_tokens"] == 0


def test_a_history_that_grew_pays_only_what_is_new(client: httpx.Client) -> None:
    before = prewarm(client, HISTORY)["usage"]["context_tokens"]
    grown = rank(client, f"{HISTORY} Lately a beekeeper.")["usage"]
    # The last block of the shorter history was short, and its last token may have merged.
    assert (before - 1) // BLOCK * BLOCK == grown["cached_tokens"]
    assert grown["context_tokens"] > before


def test_one_who_rereads_a_private_context_does_not_warm_it_for_others(
    server: RunningServer, tenant_keys: dict[str, str]
) -> None:
    context = "A stuntwoman who breeds alpacas and writes crosswords for a living on trains"
    with server.client(tenant_keys["pia"]) as private, server.client(tenant_keys["bob"]) as other:
        prewarm(private, context)
        assert rank(other, context)["usage"]["cached_tokens"] == 0


def test_it_is_charged_and_counted_for_its_tenant(client: httpx.Client) -> None:
    usage = prewarm(client, "A chimney sweep with a pilot's licence and a stall of herbs")["usage"]
    lines = client.get("/metrics").text.splitlines()
    samples = dict(line.rsplit(" ", 1) for line in lines if line.startswith("fairslate_"))
    counted = {name: float(value) for name, value in samples.items() if 'tenant="ada"' in name}
    assert counted['fairslate_requests_total{code="prewarmed",tenant="ada"}'] >= 1
    extend = counted['fairslate_tokens_total{kind="extend",tenant="ada"}']
    assert extend >= usage["extend_tokens"] > 0


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"context": " "}, "empty_text", "context"),
        ({"context": "Nurse", "candidates": []}, "unknown_field", "candidates"),
        ({"context": "Nurse " * 500, "truncation": "error"}, "text_too_long", "context"),
        ({"context": "Nurse", "prompt": "none"}, "invalid_prompt", "prompt"),
        ({"context": "Nurse", "deadline_ms": 30_001}, "deadline_too_long", "deadline_ms"),
    ],
)
def test_a_bad_body_is_refused_as_a_slates_would_be(
    client: httpx.Client, body: dict[str, Any], code: str, param: str
) -> None:
    response = client.post("/v1/contexts", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, code, param)


def test_it_takes_post_and_is_documented(client: httpx.Client) -> None:
    refused = client.get("/v1/contexts")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert "post" in client.get("/docs.json").json()["paths"]["/v1/contexts"]
