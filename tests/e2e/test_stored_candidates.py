"""A server with a catalogue: slates of texts and stored candidates, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.catalogue import Catalogue
from models.directory import ModelDirectory
from models.engines.base import ScoreJob
from models.engines.fairslate import FairslateEngine
from models.prompt import block_hashes
from service.bodies.schemas import RankAnswer
from tests.e2e.server import RunningServer, free_port, running_server, spawn
from tests.models.catalogues import JOBS, PROMPT, small_catalogue

CONTEXT = "Headline: Registered nurse. Skills: monitoring."
NAMES = list(JOBS)
VECTORS = 2


@pytest.fixture(scope="module")
def catalogue(
    tmp_path_factory: pytest.TempPathFactory, tiny_directory: ModelDirectory
) -> Catalogue:
    return small_catalogue(tmp_path_factory.mktemp("catalogue"), tiny_directory)


@pytest.fixture(scope="module")
def stored(
    tmp_path_factory: pytest.TempPathFactory, tiny_directory: ModelDirectory, catalogue: Catalogue
) -> Iterator[RunningServer]:
    """Remembers scores, computes in fp32."""
    with running_server(
        tmp_path_factory.mktemp("stored"),
        model=str(tiny_directory.path),
        catalogue=str(catalogue.path),
        score_cache_bytes=str(1 << 20),
        dtype="float32",
    ) as running:
        yield running


def rank(server: RunningServer, candidates: list[dict[str, Any]], **options: Any) -> httpx.Response:
    numbered = [{"id": str(index), **one} for index, one in enumerate(candidates)]
    body = {"context": CONTEXT, "candidates": numbered, **options}
    with server.client() as client:
        return client.post("/v1/rank", json=body)


def answer(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    RankAnswer.model_validate(response.json())
    content: dict[str, Any] = response.json()
    return content


def test_a_mixed_slate_scores_as_the_engine_does(
    stored: RunningServer, tiny_directory: ModelDirectory, catalogue: Catalogue
) -> None:
    slate = [{"text": JOBS[NAMES[0]]}, *({"embedding": name} for name in NAMES), {"text": "Baker"}]
    content = answer(rank(stored, slate, return_documents=True))
    prompt = tiny_directory.prompt
    texts = [one.ids for one in prompt.encode_candidates([JOBS[NAMES[0]], "Baker"], PROMPT)]
    framed = [prompt.frame_candidate(catalogue.token_ids(n, PROMPT), PROMPT).ids for n in NAMES]
    context = prompt.encode_context(CONTEXT, PROMPT).ids
    job = ScoreJob(context, block_hashes(context, 16), (texts[0], *framed, texts[1]))
    engine = FairslateEngine(tiny_directory, 1 << 20, catalogue=catalogue)
    (want,) = engine.score([job])
    got = {row["index"]: row["raw_logit"] for row in content["results"]}
    # In fp32 through C++ there and torch here, as far apart as the engines' own tests allow.
    assert [got[index] for index in range(5)] == pytest.approx(list(want.raw_logits), abs=1.2e-5)
    assert len(set(got.values())) == 5
    assert content["usage"]["candidate_tokens"] == want.candidate_tokens
    documents = {row["index"]: row.get("embedding") for row in content["results"]}
    assert [documents[index] for index in range(5)] == [None, *NAMES, None]


def test_stored_candidates_cost_their_vectors_and_the_template_and_are_remembered(
    stored: RunningServer, tiny_directory: ModelDirectory
) -> None:
    slate = [{"embedding": name} for name in NAMES]
    fresh = answer(rank(stored, slate, context="Somebody new"))
    template = len(tiny_directory.prompt.frame_candidate((), PROMPT).ids)
    assert fresh["usage"]["candidate_tokens"] == len(NAMES) * (template + VECTORS)
    again = answer(rank(stored, slate, context="Somebody new"))
    assert again["usage"]["reused_candidates"] == len(NAMES)
    assert again["usage"]["extend_tokens"] == 0
    assert again["results"] == fresh["results"]


def test_the_catalogue_is_described(stored: RunningServer, catalogue: Catalogue) -> None:
    with stored.client() as client:
        (model,) = client.get("/v1/models").json()["models"]
    assert model["catalogue"] == catalogue.describe()


REFUSED: dict[str, tuple[list[dict[str, Any]], dict[str, str], str, str]] = {
    "unknown entry": ([{"embedding": "job-17"}], {}, "unknown_embedding", "3 entries"),
    "other prompt": (
        [{"embedding": "nurse"}],
        {"prompt": "job_to_members"},
        "unknown_embedding",
        "member_to_jobs",
    ),
    "both": ([{"embedding": "nurse", "text": "x"}], {}, "invalid_request", "one of them"),
    "a vector": ([{"embedding": [0.1, 0.2]}], {}, "invalid_request", "in quotes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_looked_up_is_refused(name: str, stored: RunningServer) -> None:
    candidates, options, code, message = REFUSED[name]
    response = rank(stored, [{"text": "Job"}, *candidates], **options)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, code)
    assert error["param"] == "candidates[1].embedding"
    assert message in error["message"]
    assert answer(rank(stored, [{"text": "Job"}]))


def test_without_a_catalogue_entries_are_refused(server: RunningServer) -> None:
    with server.client("key-of-ada") as client:
        body = {"context": "x", "candidates": [{"id": "a", "embedding": "nurse"}]}
        response = client.post("/v1/rank", json=body)
        (model,) = client.get("/v1/models").json()["models"]
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "no_catalogue")
    assert "FAIRSLATE_CATALOGUE" in error["message"]
    assert model["catalogue"] is None


def test_a_catalogue_of_another_model_ends_the_start(
    tmp_path: Path, tiny_directory: ModelDirectory, catalogue: Catalogue
) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_bytes(
        catalogue.path.read_bytes().replace(catalogue.origin.reader.encode(), b"00" * 32)
    )
    settings = {"model": str(tiny_directory.path), "catalogue": str(damaged)}
    process = spawn(tmp_path, settings, free_port())
    assert process.wait(timeout=60) == 1
    log = (tmp_path / "serve.log").read_text()
    assert "fairslate refuses to start" in log
    assert "was made for a model of digest 0000000000000000, not for" in log
    assert not (tmp_path / "redis").exists(), "no process was started"
