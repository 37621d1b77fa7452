"""A server of a model with two heads, which remembers scores: what its answers say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.calibration import Calibration
from models.card import ModelCard
from models.checkpoint import save_model_directory
from models.decoder import Decoder
from models.head_card import HeadCard
from models.isotonic import IsotonicCalibration
from service.bodies.schemas import RankAnswer
from tests.e2e.server import RunningServer, running_server

JOBS = ["Registered nurse, night shift", "Welder in a shipyard", "Roofer", "Software developer"]


@pytest.fixture(scope="module")
def two_heads(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_card: ModelCard,
    tiny_decoder: Decoder,
    tiny_tokenizer_path: Path,
) -> Iterator[RunningServer]:
    """`skip` is `click` turned round, and its calibration ties everything."""
    state = tmp_path_factory.mktemp("two heads")
    heads = {
        "click": HeadCard(labels={" yes": 1.0, " no": 0.0}, calibration=Calibration(0.5, 0.1)),
        "skip": HeadCard(
            labels={" yes": 0.0, " no": 1.0}, calibration=IsotonicCalibration((0.0,), (0.25,))
        ),
    }
    card = replace(tiny_card, labels=None, calibration=Calibration(), heads=heads)
    save_model_directory(state / "model", tiny_decoder, tiny_tokenizer_path, card)
    with running_server(
        state, model=str(state / "model"), score_cache_bytes=str(1 << 20), dtype="float32"
    ) as running:
        yield running


def rank(server: RunningServer, context: str, texts: list[str], **options: Any) -> httpx.Response:
    candidates = [{"id": str(index), "text": text} for index, text in enumerate(texts)]
    body = {"context": context, "candidates": candidates, **options}
    with server.client() as client:
        return client.post("/v1/rank", json=body)


def answer(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    RankAnswer.model_validate(response.json())
    content: dict[str, Any] = response.json()
    return content


def order(content: dict[str, Any]) -> list[int]:
    return [row["index"] for row in content["results"]]


def test_every_head_is_answered_and_the_one_asked_for_ranks(two_heads: RunningServer) -> None:
    first = answer(rank(two_heads, "Nurse", JOBS))
    assert first["ranked_by"] == "click"
    for row in first["results"]:
        assert row["score"] == row["scores"]["click"]
        assert row["score"] == pytest.approx(Calibration(0.5, 0.1).calibrate(row["raw_logit"]))
        assert row["scores"]["skip"] == 0.25
    turned = answer(rank(two_heads, "Nurse", JOBS, rank_by="skip"))
    assert turned["ranked_by"] == "skip"
    assert order(turned) == order(first)[::-1], "tied scores stay in the order of their logits"


def test_an_unknown_head_is_refused_with_those_there_are(two_heads: RunningServer) -> None:
    refused = rank(two_heads, "Nurse", JOBS, rank_by="apply")
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (400, "unknown_head", "rank_by")
    assert "click, skip" in error["message"]


def test_pairs_scored_before_cost_no_tokens(two_heads: RunningServer) -> None:
    context = "A cartographer of caves who bakes"
    fresh = answer(rank(two_heads, context, JOBS[:3]))
    assert fresh["usage"]["reused_candidates"] == 0
    mixed = answer(rank(two_heads, context, [JOBS[3], *JOBS[:3]]))
    assert mixed["usage"]["reused_candidates"] == 3
    assert 0 < mixed["usage"]["candidate_tokens"] < fresh["usage"]["candidate_tokens"]
    again = answer(rank(two_heads, context, [JOBS[3], *JOBS[:3]]))
    assert again["results"] == mixed["results"]
    usage = again["usage"]
    assert (usage["reused_candidates"], usage["extend_tokens"]) == (4, 0)
    assert usage["cached_tokens"] == usage["context_tokens"]
    before = {row["id"]: row["raw_logit"] for row in fresh["results"]}
    after = {str(int(row["id"]) - 1): row["raw_logit"] for row in again["results"]}
    assert {name: after[name] for name in before} == before
    with two_heads.client() as client:
        lines = client.get("/metrics").text.splitlines()
    reused = [line for line in lines if 'source="score_cache"' in line]
    assert any(float(line.rsplit(" ", 1)[1]) >= 7 for line in reused), reused


def test_the_model_tells_its_heads_and_what_computes(two_heads: RunningServer) -> None:
    answer(rank(two_heads, "Somebody new", JOBS))
    with two_heads.client() as client:
        (model,) = client.get("/v1/models").json()["models"]
    assert model["heads"] == ["click", "skip"]
    (engine,) = model["engines"]
    assert (engine["count"], engine["dtype"]) == (1, "float32")
    assert engine["reason"]
    assert model["label_mass"]["floor"] == 0.95
    assert model["label_mass"]["mean"] < 0.95
    assert model["label_mass"]["alarm"], "random weights answer anything but their labels"
