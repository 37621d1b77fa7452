"""Reasons over HTTP: sentences of stated facts, streams, charges, refusals, and who has none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from compress.data.requests import load_requests
from models.reasons.check import check_reason
from service.bodies.schemas import ReasonAnswer, ReasonClosing, Reasoned
from tests.e2e.server import RunningServer

MEMBER = "Headline: Weaver. Skills: Writing. Experience: Cut materials; Count items; Mend looms."
JOBS = ["Sewer. Duties: Trim fabrics; Mark products.", "Editor. Duties: Edit texts; Hire staff."]
SSE = {"accept": "text/event-stream"}


def body(context: Any = MEMBER, texts: list[str] = JOBS, **options: Any) -> dict[str, Any]:
    candidates = [{"id": f"c{number}", "text": text} for number, text in enumerate(texts)]
    return {"context": context, "candidates": candidates, **options}


def reason(client: httpx.Client, **parts: Any) -> dict[str, Any]:
    response = client.post("/v1/reason", json=body(**parts))
    assert response.status_code == 200, response.text
    ReasonAnswer.model_validate(response.json())
    answer: dict[str, Any] = response.json()
    return answer


def events(response: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    blocks = [block for block in response.text.split("\n\n") if block.startswith("event: ")]
    pairs = [block.split("\n") for block in blocks]
    return [
        (name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        for name, data in pairs
    ]


def test_every_reason_names_what_both_texts_state(client: httpx.Client) -> None:
    for request in load_requests(Path("models/demo/onet_jobs"), "valid")[:6]:
        texts = list(request.candidates[:5])
        answer = reason(client, context=request.context, texts=texts)
        assert [row["id"] for row in answer["results"]] == [f"c{n}" for n in range(5)]
        for row, text in zip(answer["results"], texts, strict=True):
            assert check_reason(row["reason"], request.context, text).grounded
            assert row["facts"]["context"]["text"] in request.context
            assert row["facts"]["candidate"]["text"] in text


def test_a_context_is_read_once(client: httpx.Client) -> None:
    context = "Headline: Thatcher. Experience: Bind reed; Comb straw; Climb ladders."
    first = reason(client, context=context)["usage"]
    again = reason(client, context=context)["usage"]
    assert first["extend_tokens"] == first["context_tokens"] + first["candidate_tokens"]
    assert again["cached_tokens"] == again["context_tokens"] == first["context_tokens"]
    assert again["extend_tokens"] == again["candidate_tokens"]
    assert again["output_tokens"] == first["output_tokens"] > 20


def test_it_is_charged_and_counted_for_its_tenant(client: httpx.Client) -> None:
    def counted() -> dict[str, float]:
        lines = client.get("/metrics").text.splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if 'tenant="ada"' in line)
        return {name: float(value) for name, value in pairs}

    before = counted()
    usage = reason(client, context="Headline: Cooper. Experience: Bend staves; Fit hoops.")["usage"]
    after = counted()

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grown('fairslate_requests_total{code="reasoned",tenant="ada"}') == 1
    for kind in ("extend", "output"):
        assert (
            grown(f'fairslate_tokens_total{{kind="{kind}",tenant="ada"}}')
            == (usage[f"{kind}_tokens"])
        )


def test_a_stream_brings_the_same_rows_and_then_the_rest(client: httpx.Client) -> None:
    texts = [*JOBS, "“”"]
    whole = reason(client, texts=texts)
    response = client.post("/v1/reason", json=body(texts=texts), headers=SSE)
    assert response.headers["content-type"].startswith("text/event-stream")
    *rows, (last, closing) = events(response)
    assert {name for name, _ in rows} == {"reason"}
    assert sorted((row for _, row in rows), key=lambda row: row["index"]) == whole["results"]
    for _, row in rows:
        Reasoned.model_validate(row)
    assert last == "done"
    ReasonClosing.model_validate(closing)
    assert closing["usage"]["output_tokens"] == whole["usage"]["output_tokens"]


def test_a_stream_that_is_refused_is_no_stream(client: httpx.Client) -> None:
    response = client.post("/v1/reason", json=body(context=" "), headers=SSE)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "empty_text")


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"candidates": []}, "no_candidates", "candidates"),
        ({"candidates": [{"id": "a"}]}, "invalid_request", "candidates[0].text"),
        ({"candidates": [{"id": "a", "text": " "}]}, "empty_text", "candidates[0].text"),
        ({"candidates": [{"id": "a", "text": "b"}] * 2}, "duplicate_id", "candidates[1].id"),
        ({"candidates": [{"id": "a", "text": "b"}] * 33}, "too_many_candidates", "candidates"),
        ({"top_n": 1}, "unknown_field", "top_n"),
        ({"prompt": "job_to_members"}, "invalid_prompt", "prompt"),
        ({"deadline_ms": 30_001}, "deadline_too_long", "deadline_ms"),
    ],
)
def test_a_bad_body_is_refused(
    client: httpx.Client, change: dict[str, Any], code: str, param: str
) -> None:
    response = client.post("/v1/reason", json=body() | change)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, code, param)


def test_a_deadline_that_passes_is_a_504(client: httpx.Client) -> None:
    texts = [
        f"Welder {n}. Duties: {'; '.join(f'Weld beam {n} {k}' for k in range(30))}."
        for n in range(32)
    ]
    response = client.post("/v1/reason", json=body(texts=texts, deadline_ms=1))
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")


def test_nobody_without_a_key_gets_reasons(server: RunningServer) -> None:
    with httpx.Client(base_url=server.url) as stranger:
        for headers in ({}, SSE):
            response = stranger.post("/v1/reason", json=body(), headers=headers)
            assert response.status_code == 401


def test_reasons_and_slates_of_one_context_do_not_meet(client: httpx.Client) -> None:
    reason(client, context=MEMBER)
    ranked = client.post("/v1/rank", json=body(context=MEMBER)).json()["usage"]
    assert ranked["cached_tokens"] == 0


def test_it_is_described_and_documented(client: httpx.Client) -> None:
    reasoner = client.get("/v1/models").json()["reasoner"]
    assert reasoner["limits"]["max_candidates"] == 32
    assert "headline" in reasoner["prompts"]["member_to_jobs"]["context_fields"]
    document = client.get("/docs.json").json()
    assert "post" in document["paths"]["/v1/reason"]
    assert "Reasoned" in document["components"]["schemas"]
