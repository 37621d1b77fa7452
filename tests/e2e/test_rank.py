"""What a well-behaved client sees of a running server."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from models.directory import ModelDirectory
from service.bodies.schemas import RankAnswer

JOBS = ["Registered nurse, night shift", "Welder in a shipyard", "Roofer", "Software developer"]


def slate(context: Any, texts: list[str] = JOBS, **options: Any) -> dict[str, Any]:
    candidates = [{"id": f"job-{index}", "text": text} for index, text in enumerate(texts)]
    return {"context": context, "candidates": candidates, **options}


def rank(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    response = client.post("/v1/rank", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    RankAnswer.model_validate(answer)
    assert "null" not in response.text, "absent values are left out"
    return answer


def test_answer_holds_every_candidate_once_best_first(
    client: httpx.Client, tiny_directory: ModelDirectory
) -> None:
    answer = rank(client, slate("Nurse with ten years of patient care"))
    rows = answer["results"]
    assert sorted(row["index"] for row in rows) == [0, 1, 2, 3]
    assert all(row["id"] == f"job-{row['index']}" for row in rows)
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    card = tiny_directory.card
    expected = {"name": card.name, "version": card.version, "digest": card.digest}
    assert answer["model"] == expected
    for row in rows:
        assert row["score"] == pytest.approx(card.calibration.calibrate(row["raw_logit"]))


def test_equal_candidates_tie_and_keep_their_order(client: httpx.Client) -> None:
    rows = rank(client, slate("Nurse", ["Same text"] * 5))["results"]
    assert [row["index"] for row in rows] == [0, 1, 2, 3, 4]


def test_usage_adds_up_and_a_repeated_context_is_cached(client: httpx.Client) -> None:
    body = slate("A member nobody asked about before: beekeeper and part-time drummer")
    cold, warm = rank(client, body)["usage"], rank(client, body)["usage"]
    assert cold["cached_tokens"] < cold["context_tokens"]
    assert warm["cached_tokens"] == warm["context_tokens"] == cold["context_tokens"]
    for usage in (cold, warm):
        computed = usage["context_tokens"] - usage["cached_tokens"] + usage["candidate_tokens"]
        assert usage["extend_tokens"] == computed


def test_large_slate_is_scored_in_chunks_and_agrees_with_a_small_one(client: httpx.Client) -> None:
    texts = [f"{JOBS[index % 4]} number {index}, {'well paid ' * 6}" for index in range(400)]
    answer = rank(client, slate("Nurse", texts))
    assert answer["usage"]["candidate_tokens"] > 4096, "the slate must not fit one batch"
    assert len(answer["results"]) == 400
    large = {row["id"]: row["raw_logit"] for row in answer["results"]}
    small = rank(client, slate("Nurse", texts[:3]))["results"]
    for row in small:
        assert large[row["id"]] == pytest.approx(row["raw_logit"], abs=1e-4)


def test_options_choose_what_comes_back(client: httpx.Client) -> None:
    body = slate("Nurse", top_n=2, return_documents=True)
    body["candidates"][0]["metadata"] = {"employer": "Ward 7", "seats": [1, 2.5]}
    full = {row["id"]: row for row in rank(client, body | {"top_n": 4})["results"]}
    assert full["job-0"]["metadata"] == {"employer": "Ward 7", "seats": [1, 2.5]}
    assert full["job-1"]["text"] == JOBS[1]
    rows = rank(client, body)["results"]
    assert [row["id"] for row in rows] == list(full)[:2]


def test_named_fields_render_as_the_same_text(client: httpx.Client) -> None:
    fields = rank(client, slate({"skills": "patient care", "headline": "Nurse"}))
    text = rank(client, slate("Headline: Nurse. Skills: patient care."))
    assert fields["results"] == text["results"]


def test_prompts_score_differently(client: httpx.Client) -> None:
    forward = rank(client, slate("Nurse"))["results"]
    inverse = rank(client, slate("Nurse", prompt="job_to_members"))["results"]
    assert {r["id"]: r["raw_logit"] for r in forward} != {r["id"]: r["raw_logit"] for r in inverse}


def test_only_the_long_candidate_is_truncated(client: httpx.Client) -> None:
    answer = rank(client, slate("Nurse", ["Short", "Long " * 500]))
    assert {row["index"]: row["status"] for row in answer["results"]} == {0: "ok", 1: "truncated"}
    assert answer["context_status"] == "ok"
    assert rank(client, slate("Nurse " * 500))["context_status"] == "truncated"


def test_request_id_is_kept_or_made(client: httpx.Client) -> None:
    given = client.post("/v1/rank", json=slate("Nurse"), headers={"x-request-id": "mine-1"})
    assert given.headers["x-request-id"] == given.json()["request_id"] == "mine-1"
    made = client.post("/v1/rank", json=slate("Nurse"))
    assert len(made.json()["request_id"]) == 32


def test_limits_are_advertised(client: httpx.Client, tiny_directory: ModelDirectory) -> None:
    (model,) = client.get("/v1/models").json()["models"]
    assert model["digest"] == tiny_directory.digest
    assert model["limits"]["max_candidates"] == 512
    assert model["limits"]["max_candidate_tokens"] == 96
    fields = {name: prompt["context_fields"] for name, prompt in model["prompts"].items()}
    assert fields == {name: list(p.fields) for name, p in tiny_directory.card.prompts.items()}


def test_openapi_and_its_page_are_served(client: httpx.Client) -> None:
    document = client.get("/docs.json").json()
    operation = document["paths"]["/v1/rank"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert schema == "#/components/schemas/RankRequest"
    assert "candidates" in document["components"]["schemas"]["RankRequest"]["properties"]
    assert client.get("/").status_code == 200


def test_metrics_count_answers_by_tenant(client: httpx.Client) -> None:
    rank(client, slate("Nurse"))
    lines = client.get("/metrics").text.splitlines()
    counts = [line for line in lines if line.startswith("fairslate_requests_total{")]
    assert any('code="ok"' in line and 'tenant="ada"' in line for line in counts), counts
    assert any(line.startswith("fairslate_stage_milliseconds_bucket") for line in lines)
    assert any(line.startswith('fairslate_tenant_overtakes_total{tenant="ada"}') for line in lines)
