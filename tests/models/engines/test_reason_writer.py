"""The writer: against greedy writing that computes all anew, in batches, and over its cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.data.requests import load_requests
from compress.decoders.sequences import SequenceBatch, answer_states
from models.checkpoint import load_decoder, load_model_directory
from models.decoder import Decoder
from models.engines.base import ReasonJob
from models.engines.reason_writer import ReasonWriter
from models.errors import (
    CandidateTooLongError,
    NonFiniteLogitError,
    TokenOutOfVocabularyError,
)
from models.reasons.check import check_reason
from models.reasons.facts import job_facts, member_facts
from models.reasons.grammar import ReasonTokens
from models.reasons.lattice import Branches, Lattice, insert
from tests.models.reasons.test_lattice import ways

DIRECTORY = load_model_directory(Path("models/demo_reason"))
BLOCK = DIRECTORY.card.block_size
TOKENS = ReasonTokens(DIRECTORY.prompt)
CANDIDATES = 3


def real_jobs(requests: int = 4) -> list[tuple[ReasonJob, str, str]]:
    """Jobs of recorded requests, with their texts; several share their context."""
    prompt, jobs = DIRECTORY.prompt, []
    for request in load_requests(Path("models/demo/onet_jobs"), "valid")[:requests]:
        texts = request.candidates[:CANDIDATES]
        context = prompt.encode_context(request.context).ids
        chain = prompt.block_hashes(context, BLOCK)
        grammars = TOKENS.grammars(member_facts(request.context), [job_facts(t) for t in texts])
        for text, item, grammar in zip(
            texts, prompt.encode_candidates(texts), grammars, strict=True
        ):
            assert grammar is not None
            job = ReasonJob(context, chain, item.ids, grammar.lattice())
            jobs.append((job, request.context, text))
    return jobs


def random_decoder() -> Decoder:
    """Of the shipped shape, and of decisions that are wide apart."""
    torch.manual_seed(4)
    decoder = Decoder(load_decoder(DIRECTORY).config).requires_grad_(False)
    decoder.model.embed_tokens.weight.normal_()
    return decoder


def writer(decoder: Decoder, cache_bytes: int = 64 << 20) -> ReasonWriter:
    return ReasonWriter(decoder, BLOCK, cache_bytes)


def greedy(decoder: Decoder, job: ReasonJob) -> tuple[int, ...]:
    """Everything anew for each token, choice or not."""
    answer: list[int] = []
    node = 0
    while node != job.answers.end:
        prompt = [*job.context_ids, *job.candidate, *answer]
        with torch.no_grad():
            states = answer_states(decoder, SequenceBatch.pack([prompt], [[0]]))
            logits = (states @ decoder.output_embedding.T)[0]
        allowed = [token for token, _ in job.answers.nodes[node]]
        token = max(allowed, key=lambda one: float(logits[one]))
        answer.append(token)
        node = job.answers.follow(node, token)
    return tuple(answer)


@pytest.mark.parametrize("shipped", [True, False])
def test_it_writes_what_greedy_choices_give(shipped: bool) -> None:
    decoder = load_decoder(DIRECTORY) if shipped else random_decoder()
    jobs = [job for job, _, _ in real_jobs(2)]
    written = writer(decoder).write(jobs)
    assert [one.tokens for one in written] == [greedy(decoder, job) for job in jobs]


def test_a_batch_writes_what_each_job_alone_does() -> None:
    decoder, jobs = random_decoder(), [job for job, _, _ in real_jobs()]
    alone = [writer(decoder).write([job])[0].tokens for job in jobs]
    shared = writer(decoder)
    assert [one.tokens for one in shared.write(jobs)] == alone
    assert [one.tokens for one in shared.write(jobs[::-1])] == alone[::-1]  # all contexts held
    assert len(set(alone)) > len(alone) // 2


def test_many_tokens_go_in_several_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, jobs = random_decoder(), [job for job, _, _ in real_jobs(2)]
    want = [one.tokens for one in writer(decoder).write(jobs)]
    for module in ("reason_writer", "contexts"):
        monkeypatch.setattr(f"models.engines.{module}.PASS_TOKENS", 70)
    assert [one.tokens for one in writer(decoder).write(jobs)] == want


def test_what_an_untrained_model_writes_is_grounded() -> None:
    jobs = real_jobs()
    written = writer(random_decoder()).write([job for job, _, _ in jobs])
    for (job, member, text), answer in zip(jobs, written, strict=True):
        assert answer.tokens in set(ways(job.answers))
        grammar = TOKENS.grammars(member_facts(member), [job_facts(text)])[0]
        assert grammar is not None
        assert check_reason(str(grammar.read(answer.tokens)), member, text).grounded


def test_a_context_is_read_once_and_paid_by_the_first_job() -> None:
    shared, jobs = writer(random_decoder()), [job for job, _, _ in real_jobs(2)]
    first = shared.write(jobs)
    context = len(jobs[0].context_ids)
    assert [one.cached_tokens for one in first[:CANDIDATES]] == [0, context, context]
    assert first[CANDIDATES].cached_tokens == 0
    assert set(shared.drain_cache_events().inserted) == {
        block for job in jobs for block in job.block_hashes
    }
    again = shared.write(jobs[:1])[0]
    assert again.cached_tokens == again.context_tokens == context
    assert again.extend_tokens == again.candidate_tokens == len(jobs[0].candidate)
    assert again.output_tokens == len(again.tokens) <= jobs[0].answers.longest


def test_an_answer_without_any_choice_is_given() -> None:
    start: Branches = {}
    insert(start, (5, 6, 7), {})
    job = replace(real_jobs(1)[0][0], answers=Lattice.of(start))
    assert writer(random_decoder()).write([job])[0].tokens == (5, 6, 7)


def test_no_memory_for_a_cache_changes_nothing() -> None:
    decoder, jobs = random_decoder(), [job for job, _, _ in real_jobs(1)]
    small = writer(decoder, cache_bytes=1)
    assert small.write(jobs) == writer(decoder).write(jobs)
    assert small.write(jobs)[0].cached_tokens == 0


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"candidate": (5120,)}, TokenOutOfVocabularyError),
        ({"answers": Lattice((((5120, 1),), ()))}, TokenOutOfVocabularyError),
        ({"context_ids": (1,) * 1000, "candidate": (2,) * 24}, CandidateTooLongError),
    ],
)
def test_what_cannot_be_written_is_refused_before_any_work(
    change: dict[str, Any], error: type[Exception]
) -> None:
    job = replace(real_jobs(1)[0][0], **change)
    with pytest.raises(error):
        writer(random_decoder()).write([job])


def test_weights_that_are_no_numbers_are_found() -> None:
    decoder = random_decoder()
    decoder.model.norm.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteLogitError):
        writer(decoder).write([real_jobs(1)[0][0]])
