"""Clients of other services swap the URL: Cohere's own, and bodies as the others document them."""

from __future__ import annotations

import asyncio
from typing import Any

import cohere
import cohere.errors
import httpx
import pytest

from models.directory import ModelDirectory
from service.compat.answers import ItemsAnswer, PairsAnswer, RerankAnswer, TextsAnswer
from tests.e2e.server import RunningServer

QUERY = "Nurse with ten years of patient care"
JOBS = ["Registered nurse, night shift", "Welder in a shipyard", "Roofer", "Software developer"]
LONG = "welding steel in the rain " * 200


@pytest.fixture(scope="module")
def native(server: RunningServer, tenant_keys: dict[str, str]) -> list[dict[str, Any]]:
    """The rows of the native route for the same slate, best first."""
    candidates = [{"id": str(index), "text": text} for index, text in enumerate(JOBS)]
    with server.client(tenant_keys["ada"]) as client:
        answer = client.post("/v1/rank", json={"context": QUERY, "candidates": candidates}).json()
    rows: list[dict[str, Any]] = answer["results"]
    return rows


def answer(client: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    assert "null" not in response.text, "absent values are left out"
    return response.json()


def test_coheres_client_ranks(
    server: RunningServer,
    tenant_keys: dict[str, str],
    native: list[dict[str, Any]],
    tiny_directory: ModelDirectory,
) -> None:
    client = cohere.ClientV2(api_key=tenant_keys["ada"], base_url=server.url)
    name = tiny_directory.card.name
    found = client.rerank(model=name, query=QUERY, documents=JOBS, top_n=3)
    rows = [(row.index, row.relevance_score) for row in found.results]
    assert rows == [(row["index"], row["score"]) for row in native[:3]]


def test_coheres_older_client_gets_its_documents_back(
    server: RunningServer, tenant_keys: dict[str, str], native: list[dict[str, Any]]
) -> None:
    client = cohere.Client(api_key=tenant_keys["ada"], base_url=server.url)
    documents: Any = [JOBS[0], {"text": JOBS[1]}, *JOBS[2:]]
    found = client.rerank(query=QUERY, documents=documents, return_documents=True)
    texts = [row.document and row.document.text for row in found.results]
    assert texts == [JOBS[row["index"]] for row in native]


def test_coheres_asynchronous_client_ranks(
    server: RunningServer, tenant_keys: dict[str, str], tiny_directory: ModelDirectory
) -> None:
    async def best() -> int:
        client = cohere.AsyncClientV2(api_key=tenant_keys["ada"], base_url=server.url)
        name = tiny_directory.card.name
        found = await client.rerank(
            model=name, query=QUERY, documents=JOBS, max_tokens_per_doc=4096
        )
        return len(found.results)

    assert asyncio.run(best()) == len(JOBS)


def test_coheres_client_hears_refusals(server: RunningServer, tenant_keys: dict[str, str]) -> None:
    client = cohere.ClientV2(api_key=tenant_keys["ada"], base_url=server.url)
    with pytest.raises(cohere.errors.NotFoundError) as caught:
        client.rerank(model="rerank-v4.0", query=QUERY, documents=JOBS)
    assert caught.value.body["error"]["code"] == "model_not_found"
    stranger = cohere.ClientV2(api_key="nobody's", base_url=server.url)
    with pytest.raises(cohere.errors.UnauthorizedError):
        stranger.rerank(model="x", query=QUERY, documents=JOBS)


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_every_rerank_route_gives_the_native_ranking(
    path: str, client: httpx.Client, native: list[dict[str, Any]]
) -> None:
    told = answer(client, path, {"query": QUERY, "documents": JOBS})
    RerankAnswer.model_validate(told)
    rows = [(row["index"], row["relevance_score"]) for row in told["results"]]
    assert rows == [(row["index"], row["score"]) for row in native]


def test_teis_body_gets_teis_bare_list(client: httpx.Client, native: list[dict[str, Any]]) -> None:
    body = {"query": QUERY, "texts": JOBS, "raw_scores": True, "truncate": True}
    rows = [{"index": row["index"], "score": row["raw_logit"]} for row in native]
    assert answer(client, "/rerank", body) == rows
    TextsAnswer.model_validate(answer(client, "/rerank", body | {"return_text": True, "top_n": 2}))


@pytest.mark.parametrize("path", ["/v1/score", "/score"])
def test_sglangs_body_is_scored_in_its_order(
    path: str, client: httpx.Client, native: list[dict[str, Any]], tiny_directory: ModelDirectory
) -> None:
    labels = client.get("/v1/models").json()["models"][0]["label_token_ids"]
    assert tuple(labels) == tiny_directory.prompt.label_ids
    body = {
        "query": QUERY,
        "items": JOBS,
        "label_token_ids": labels,
        "apply_softmax": True,
        "item_first": False,
        "model": tiny_directory.card.name,
    }
    told = answer(client, path, body)
    ItemsAnswer.model_validate(told)
    by_index = sorted(native, key=lambda row: int(row["index"]))
    odds = [row["raw_logit"] for row in by_index]
    expected = [1 / (1 + 2.718281828459045**-value) for value in odds]
    assert [row[0] for row in told["scores"]] == pytest.approx(expected, rel=1e-12)
    assert [sum(row) for row in told["scores"]] == pytest.approx([1.0] * 4)
    del body["label_token_ids"], body["apply_softmax"]
    assert answer(client, path, body)["scores"] == [[row["score"]] for row in by_index]


def test_vllms_pairs_are_scored_in_their_order(
    client: httpx.Client, native: list[dict[str, Any]]
) -> None:
    told = answer(client, "/score", {"text_1": QUERY, "text_2": JOBS, "softmax": None})
    PairsAnswer.model_validate(told)
    by_index = sorted(native, key=lambda row: int(row["index"]))
    assert [row["score"] for row in told["data"]] == [row["score"] for row in by_index]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/rerank", {"query": QUERY, "texts": [JOBS[0], LONG], "truncate": False}, "texts[1]"),
        ("/v1/rerank", {"query": QUERY, "documents": JOBS, "prompt": "other"}, "prompt"),
        ("/v1/rerank", {"query": QUERY, "documents": ["a"] * 513}, "documents"),
        ("/v1/score", {"query": QUERY, "items": [""]}, "items[0]"),
        ("/v1/score", {"text_1": QUERY, "text_2": ["a", " "]}, "text_2[1]"),
    ],
)
def test_a_refusal_names_what_was_sent(
    path: str, body: dict[str, Any], param: str, client: httpx.Client
) -> None:
    response = client.post(path, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert "candidates[" not in error["message"]


def test_what_was_cut_is_said(client: httpx.Client) -> None:
    told = answer(client, "/v1/rerank", {"query": QUERY, "documents": ["Roofer", LONG]})
    assert {row["index"]: row["status"] for row in told["results"]} == {0: "ok", 1: "truncated"}
    assert answer(client, "/score", {"query": QUERY, "items": ["a", LONG]})["truncated"] == [1]


def test_routes_are_documented_and_take_post_alone(client: httpx.Client) -> None:
    paths = client.get("/docs.json").json()["paths"]
    for path in ("/v1/rerank", "/v2/rerank", "/rerank", "/v1/score", "/score"):
        assert "post" in paths[path]
        assert client.get(path).status_code == 405
