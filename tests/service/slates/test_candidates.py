"""Texts and stored candidates of one slate keep their places; what is not stored is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.catalogue import Catalogue
from models.directory import ModelDirectory
from service.base.errors import InvalidRequestError
from service.bodies.schemas import Candidate, RankRequest
from service.process.served_models import pool_name
from service.slates.answer import Heads, assemble
from service.slates.candidates import encode_candidates
from service.slates.slate import SlateScores, encode_slate
from tests.models.catalogues import JOBS, PROMPT, small_catalogue


@pytest.fixture(scope="module")
def catalogue(
    tmp_path_factory: pytest.TempPathFactory, tiny_directory: ModelDirectory
) -> Catalogue:
    return small_catalogue(tmp_path_factory.mktemp("catalogue"), tiny_directory)


def candidate(index: int, kind: str, name: str) -> Candidate:
    content = {"embedding": name} if kind == "stored" else {"text": JOBS[name]}
    return Candidate.model_validate({"id": str(index), **content})


MIXED = st.lists(
    st.tuples(st.sampled_from(["text", "stored"]), st.sampled_from(sorted(JOBS))), max_size=12
)


@given(MIXED)
def test_every_candidate_is_encoded_in_its_place(
    catalogue: Catalogue, tiny_directory: ModelDirectory, drawn: list[tuple[str, str]]
) -> None:
    listed = [candidate(index, *one) for index, one in enumerate(drawn)]
    prompt, vocab_size = tiny_directory.prompt, tiny_directory.config.vocab_size
    encoded = encode_candidates(listed, prompt, PROMPT, catalogue)
    assert len(encoded) == len(listed)
    template = prompt.frame_candidate((), PROMPT).ids
    for (kind, name), own in zip(drawn, encoded, strict=True):
        if kind == "text":
            (alone,) = prompt.encode_candidates([JOBS[name]], PROMPT)
            assert own == alone
        else:
            row = list(JOBS).index(name)
            ids = [vocab_size + 2 * row, vocab_size + 2 * row + 1]
            assert [token for token in own.ids if token >= vocab_size] == ids
            assert len(own.ids) == len(template) + 2
            assert not own.truncated


def mixed_request(entry: str = "welder", prompt: str | None = None) -> RankRequest:
    listed = [candidate(0, "text", "nurse"), Candidate(id="b", embedding=entry)]
    return RankRequest(context="Nurse", candidates=listed, prompt=prompt)


def test_what_is_not_stored_is_named(catalogue: Catalogue, tiny_directory: ModelDirectory) -> None:
    card, prompt = tiny_directory.card, tiny_directory.prompt
    assert len(encode_slate(mixed_request(), card, prompt, catalogue=catalogue).candidates) == 2
    other = mixed_request(prompt="job_to_members")
    for request, held, code, message in (
        (mixed_request("job-17"), catalogue, "unknown_embedding", "'job-17' is none of .* 3 ent"),
        (other, catalogue, "unknown_embedding", "made for prompt 'member_to_jobs', not for"),
        (mixed_request(), None, "no_catalogue", "this server has no catalogue"),
    ):
        with pytest.raises(InvalidRequestError, match=message) as caught:
            encode_slate(request, card, prompt, catalogue=held)
        assert (caught.value.code, caught.value.param) == (code, "candidates[1].embedding")


def test_pools_of_different_catalogues_do_not_meet(
    catalogue: Catalogue, tiny_directory: ModelDirectory
) -> None:
    assert pool_name(tiny_directory, catalogue) != pool_name(tiny_directory)
    assert pool_name(tiny_directory, None) == pool_name(tiny_directory)


def test_documents_repeat_what_was_sent(
    catalogue: Catalogue, tiny_directory: ModelDirectory
) -> None:
    listed = [candidate(0, "text", "nurse"), candidate(1, "stored", "welder")]
    request = RankRequest(context="Nurse", candidates=listed, return_documents=True)
    card, prompt = tiny_directory.card, tiny_directory.prompt
    slate = encode_slate(request, card, prompt, catalogue=catalogue)
    heads = Heads({name: head.calibration for name, head in card.scoring_heads.items()}, "score")
    rows = assemble(heads, request, slate, SlateScores(((2.0,), (1.0,)), 0, []))["results"]
    assert rows[0]["text"] == JOBS["nurse"]
    assert rows[1]["embedding"] == "welder"
    assert "embedding" not in rows[0]
    assert "text" not in rows[1]
