"""A slate becomes jobs that together hold every candidate once, within the budget."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.directory import ModelDirectory
from models.engines.base import ScoreJob
from service.base.errors import InvalidRequestError
from service.bodies.schemas import Candidate, ContextRequest, RankRequest
from service.gate.job import Job, Level
from service.jobs.jobs import decode_job
from service.slates.slate import (
    BRIEF_CANDIDATES,
    BRIEF_CHARACTERS,
    Errand,
    encode_slate,
    is_brief,
    slate_jobs,
    split_slate,
)
from service.slates.token_memory import TokenMemory

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=40)


@given(st.integers(1, 100), LENGTHS, st.integers(1, 200))
def test_chunks_cover_the_slate_within_the_budget(
    context_tokens: int, lengths: list[int], budget: int
) -> None:
    chunks = split_slate(context_tokens, lengths, budget)
    assert [index for chunk in chunks for index in chunk] == list(range(len(lengths)))
    for chunk in chunks:
        tokens = context_tokens + sum(lengths[index] for index in chunk)
        assert len(chunk) == 1 or tokens <= budget


@given(st.integers(1, 100), LENGTHS, st.integers(1, 200))
def test_no_two_neighbours_would_fit_together(
    context_tokens: int, lengths: list[int], budget: int
) -> None:
    chunks = split_slate(context_tokens, lengths, budget)
    for left, right in pairwise(chunks):
        joined = context_tokens + sum(lengths[left.start : left.stop]) + lengths[right.start]
        assert joined > budget


def test_budget_is_reached_but_not_passed() -> None:
    assert split_slate(10, [5, 5, 5], 20) == [range(2), range(2, 3)]
    assert split_slate(10, [5, 5, 5], 19) == [range(1), range(1, 2), range(2, 3)]


def request(texts: list[str], truncation: str = "truncate") -> RankRequest:
    candidates = [Candidate(id=str(index), text=text) for index, text in enumerate(texts)]
    return RankRequest.model_validate(
        {"context": "Nurse", "candidates": candidates, "truncation": truncation}
    )


def score_job_of(job: Job) -> ScoreJob:
    decoded = decode_job(job.payload).job
    assert isinstance(decoded, ScoreJob)
    return decoded


def test_jobs_carry_the_slates_tokens(tiny_directory: ModelDirectory) -> None:
    card, prompt = tiny_directory.card, tiny_directory.prompt
    slate = encode_slate(request(["Nurse", "Welder", "Roofer " * 10]), card, prompt)
    path = (Level("batch", 2), Level("ada", 3), Level("u1"))
    errand = Errand("slate", path, 1, deadline_ms=500, reply_to="here")
    jobs = slate_jobs(slate, errand, card.block_size, token_budget=len(slate.context.ids) + 20)
    assert len(jobs) > 1
    decoded = [score_job_of(job) for job in jobs]
    ids = [candidate for job in decoded for candidate in job.candidates]
    assert ids == [candidate.ids for candidate in slate.candidates]
    for job, score_job in zip(jobs, decoded, strict=True):
        assert score_job.context_ids == slate.context.ids
        assert score_job.block_hashes == job.context_hashes == slate.block_hashes
        assert job.candidate_tokens == sum(map(len, score_job.candidates))
        assert (job.path, job.tenant, job.deadline_ms) == (path, "ada", 500)
    assert len({job.job_id for job in jobs}) == len(jobs)


def test_a_salt_shares_prefixes_with_its_equals_only(tiny_directory: ModelDirectory) -> None:
    card, prompt = tiny_directory.card, tiny_directory.prompt
    salts = ("", "tenant:ada", "tenant:bob")
    chains = [encode_slate(request(["Nurse"]), card, prompt, salt).block_hashes for salt in salts]
    again = encode_slate(request(["Welder"]), card, prompt, "tenant:ada").block_hashes
    assert again == chains[1]
    hashes = [block for chain in chains for block in chain]
    assert len(set(hashes)) == len(hashes)


def test_truncation_error_names_the_candidate_and_the_limit(
    tiny_directory: ModelDirectory,
) -> None:
    card, prompt = tiny_directory.card, tiny_directory.prompt
    texts = ["Nurse", "Nurse " * 200]
    assert [c.truncated for c in encode_slate(request(texts), card, prompt).candidates] == [
        False,
        True,
    ]
    with pytest.raises(InvalidRequestError, match=r"candidates\[1\]\.text.* 96 tokens") as refusal:
        encode_slate(request(texts, "error"), card, prompt)
    (said,) = re.findall(r"has (\d+) tokens", str(refusal.value))
    assert int(said) == prompt.candidate_tokens(texts[1]) > 200


@pytest.mark.parametrize("context", ["Nurse; " * 2000, {"headline": "x", "skills": "a, " * 2000}])
def test_truncation_error_counts_the_tokens_of_the_whole_context(
    tiny_directory: ModelDirectory, context: str | dict[str, str]
) -> None:
    card, prompt = tiny_directory.card, tiny_directory.prompt
    asked = ContextRequest.model_validate({"context": context, "truncation": "error"})
    assert len(prompt.encode_context(context).ids) == 256
    tokens = prompt.context_tokens(context)
    assert tokens > 2000
    with pytest.raises(InvalidRequestError, match=f"context has {tokens} tokens.* 256 tokens"):
        encode_slate(asked, card, prompt)


def test_a_context_alone_is_one_job_without_candidates(tiny_directory: ModelDirectory) -> None:
    card, prompt = tiny_directory.card, tiny_directory.prompt
    slate = encode_slate(ContextRequest(context="Nurse"), card, prompt)
    errand = Errand("slate", (Level("ada"),), 0, deadline_ms=500, reply_to="here")
    (job,) = slate_jobs(slate, errand, card.block_size, token_budget=1)
    assert (job.context_tokens, job.candidate_tokens) == (len(slate.context.ids), 0)
    decoded = score_job_of(job)
    assert (decoded.context_ids, decoded.candidates) == (slate.context.ids, ())


def test_only_what_is_small_and_known_is_brief(tiny_directory: ModelDirectory) -> None:
    card, prompt, memory = tiny_directory.card, tiny_directory.prompt, TokenMemory(1 << 20)
    known = request(["Nurse"] * BRIEF_CANDIDATES)
    assert not is_brief(known, prompt, "", memory)
    encode_slate(known, card, prompt, memory=memory)
    assert is_brief(known, prompt, "", memory)
    assert not is_brief(known, prompt, "salted", memory)
    assert not is_brief(request(["Nurse", "Welder"]), prompt, "", memory)
    assert not is_brief(request(["Nurse"] * (BRIEF_CANDIDATES + 1)), prompt, "", memory)


def test_a_known_candidate_that_may_be_refused_as_long_is_not_brief(
    tiny_directory: ModelDirectory,
) -> None:
    card, prompt, memory = tiny_directory.card, tiny_directory.prompt, TokenMemory(1 << 20)
    short, long = "x" * BRIEF_CHARACTERS, "x" * (BRIEF_CHARACTERS + 1)
    encode_slate(request([short, long]), card, prompt, memory=memory)
    assert is_brief(request([short, long]), prompt, "", memory)
    assert is_brief(request([short], "error"), prompt, "", memory)
    assert not is_brief(request([short, long], "error"), prompt, "", memory)


@pytest.mark.parametrize("context", ["{}", {"headline": "{}"}])
def test_a_long_context_is_not_brief(
    tiny_directory: ModelDirectory, context: str | dict[str, str]
) -> None:
    def asked(characters: int) -> ContextRequest:
        text = "x" * characters
        filled = text if isinstance(context, str) else {"headline": text}
        return ContextRequest.model_validate({"context": filled})

    memory = TokenMemory(0)
    assert is_brief(asked(BRIEF_CHARACTERS), tiny_directory.prompt, "", memory)
    assert not is_brief(asked(BRIEF_CHARACTERS + 1), tiny_directory.prompt, "", memory)
