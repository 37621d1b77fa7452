"""What exceeds the scorer is cut, chunked or refused by its limit, and the next request served."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import torch

from models.card import ModelCard
from models.checkpoint import save_model_directory
from models.decoder import Decoder
from tests.e2e.server import RunningServer, running_server
from tests.e2e.test_rank import JOBS, rank, slate

LONG = "Long " * 300  # 512 of them fit a body


@pytest.fixture(scope="module")
def cramped(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path
) -> Iterator[RunningServer]:
    """Its prefix cache has no room for a single block."""
    state = tmp_path_factory.mktemp("cramped")
    with running_server(state, model=str(tiny_model_dir), cache_bytes="1") as running:
        yield running


@pytest.fixture
def near(cramped: RunningServer) -> Iterator[httpx.Client]:
    with cramped.client() as opened:
        yield opened


def test_a_cache_below_one_context_changes_no_score(
    near: httpx.Client, client: httpx.Client
) -> None:
    body = slate("Nurse " * 40)
    expected = {row["id"]: row["raw_logit"] for row in rank(client, body)["results"]}
    for _ in range(2):
        answer = rank(near, body)
        assert answer["usage"]["cached_tokens"] == 0
        found = {row["id"]: row["raw_logit"] for row in answer["results"]}
        assert found == pytest.approx(expected, abs=1e-4)


def test_the_most_and_longest_candidates_are_cut_and_chunked(near: httpx.Client) -> None:
    texts = [f"{number} {LONG}" for number in range(512)]
    answer = rank(near, slate(LONG, texts))
    assert answer["context_status"] == "truncated"
    assert len(answer["results"]) == 512
    assert all(row["status"] == "truncated" for row in answer["results"])
    assert all(math.isfinite(row["raw_logit"]) for row in answer["results"])
    alone = {row["id"]: row["raw_logit"] for row in rank(near, slate(LONG, texts[:2]))["results"]}
    together = {row["id"]: row["raw_logit"] for row in answer["results"]}
    assert alone == pytest.approx({name: together[name] for name in alone}, abs=1e-4)


def test_a_context_that_leaves_no_room_is_refused_where_nothing_may_be_cut(
    near: httpx.Client,
) -> None:
    response = near.post("/v1/rank", json=slate(LONG, truncation="error"))
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("text_too_long", "context")
    assert "256" in error["message"]
    rank(near, slate("Nurse"))


@pytest.mark.long
def test_logits_beyond_every_number_are_an_error_and_never_an_answer(
    tmp_path: Path, tiny_decoder: Decoder, tiny_tokenizer_path: Path, tiny_card: ModelCard
) -> None:
    changed = altered(tiny_decoder, 1e38)
    save_model_directory(tmp_path / "model", changed, tiny_tokenizer_path, tiny_card)
    with running_server(tmp_path, model=str(tmp_path / "model")) as running, running.client() as to:
        for _ in range(2):
            response = to.post("/v1/rank", json=slate("Nurse", JOBS))
            assert response.status_code == 500
            assert response.json()["error"]["code"] == "scoring_failed"
            assert "not finite" in response.json()["error"]["message"]
        assert running.ready()


def altered(decoder: Decoder, value: float) -> Decoder:
    """A copy whose last norm weighs everything by `value`."""
    changed = Decoder(replace(decoder.config)).requires_grad_(False)
    changed.load_state_dict(decoder.state_dict())
    changed.model.norm.weight.copy_(torch.full_like(changed.model.norm.weight, value))
    return changed
