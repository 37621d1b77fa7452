"""The C++ decoder against the plain one, and against itself in every arrangement."""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from models.engines.fairslate import RunnerEngine
from models.engines.native_runner import PASS_LIMITS
from models.errors import (
    CandidateTooLongError,
    ContextTooLongError,
    TokenOutOfVocabularyError,
)
from tests.models.engines.native import (
    CONFIGS,
    NARROW_AND_WIDE,
    PLAIN,
    drawn,
    drawn_jobs,
    job,
    logits,
    native_engine,
    needs_native,
    random_decoder,
    torch_engine,
)

pytestmark = needs_native
# Largest difference measured over CONFIGS times two; logits spread by 0.7 to 2.3.
TOLERANCES = {"float32": 6e-6, "bfloat16": 0.15, "int8": 0.5}


@pytest.fixture(params=NARROW_AND_WIDE)
def dtype(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def engine(dtype: str) -> RunnerEngine:
    return native_engine(random_decoder(PLAIN), dtype)


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_the_plain_decoders(name: str, dtype: str) -> None:
    decoder = random_decoder(CONFIGS[name])
    want = logits(torch_engine(deepcopy(decoder)), drawn_jobs())
    got = logits(native_engine(decoder, dtype), drawn_jobs())
    assert torch.tensor(want).std() > 0.7
    assert got == pytest.approx(want, abs=TOLERANCES[dtype], rel=0)


def test_bits_are_the_same_in_any_company(engine: RunnerEngine, dtype: str) -> None:
    jobs = drawn_jobs()
    together = logits(engine, jobs)
    assert logits(engine, jobs) == together  # warm
    for alone in jobs:
        cold = native_engine(random_decoder(PLAIN), dtype, threads=1)
        singles = [replace(alone, candidates=(ids,)) for ids in alone.candidates]
        one_by_one = [logit for single in singles for logit in logits(cold, [single])]
        start = sum(len(other.candidates) for other in jobs[: jobs.index(alone)])
        assert one_by_one == together[start : start + len(one_by_one)]


def test_permuted_candidates_have_permuted_scores(engine: RunnerEngine) -> None:
    slate = drawn_jobs()[3]
    mixed = random.Random(1).sample(slate.candidates, len(slate.candidates))
    found = dict(zip(slate.candidates, logits(engine, [slate]), strict=True))
    assert logits(engine, [job(slate.context_ids, mixed)]) == [found[ids] for ids in mixed]


def test_a_grown_context_pays_for_its_new_blocks_only(engine: RunnerEngine, dtype: str) -> None:
    rng = random.Random(3)
    context, more, candidate = drawn(rng, 160), drawn(rng, 70), drawn(rng, 9)
    engine.score([job(context, [candidate])])
    grown = job(context + more, [candidate])
    (scores,) = engine.score([grown])
    assert scores.cached_tokens == 160
    fresh = native_engine(random_decoder(PLAIN), dtype)
    assert fresh.score([grown])[0].raw_logits == scores.raw_logits


@pytest.mark.parametrize("cache_bytes", [0, 40_000])
def test_a_cache_that_is_too_small_changes_no_score(cache_bytes: int) -> None:
    want = logits(native_engine(random_decoder(PLAIN)), drawn_jobs())
    small = native_engine(random_decoder(PLAIN), cache_bytes=cache_bytes)
    assert logits(small, drawn_jobs()) == want
    assert logits(small, drawn_jobs()) == want


def test_work_beyond_one_pass_is_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    want = logits(native_engine(random_decoder(PLAIN)), drawn_jobs())
    limits = replace(PASS_LIMITS, tokens=310)
    monkeypatch.setattr("models.engines.native_runner.PASS_LIMITS", limits)
    assert logits(native_engine(random_decoder(PLAIN)), drawn_jobs()) == want
    with pytest.raises(CandidateTooLongError, match="311 tokens"):
        native_engine(random_decoder(PLAIN)).score([job((), [(1,) * 311])])


def test_a_context_alone_is_read_ahead(engine: RunnerEngine) -> None:
    slate = drawn_jobs()[3]
    (ahead,) = engine.score([replace(slate, candidates=())])
    assert (ahead.raw_logits, ahead.cached_tokens) == ((), 0)
    assert engine.score([slate])[0].cached_tokens == len(slate.context_ids)


def test_bad_tokens_and_contexts_are_refused_and_spoil_nothing(engine: RunnerEngine) -> None:
    jobs = drawn_jobs()
    want = logits(engine, jobs)
    for bad in (PLAIN.vocab_size, -1):
        with pytest.raises(TokenOutOfVocabularyError, match="the model knows 0 to 299"):
            engine.score([job(jobs[0].context_ids, [(1, bad)])])
    with pytest.raises(ContextTooLongError):
        engine.score([job(drawn(random.Random(2), 700), [(1,)])])
    with pytest.raises(CandidateTooLongError, match="of 400 tokens exceeds the 384"):
        engine.score([job(drawn(random.Random(2), 640), [(1,) * 400])])
    assert logits(engine, jobs) == want


def test_a_context_that_is_not_finite_spoils_no_other(dtype: str) -> None:
    decoder = random_decoder(PLAIN)
    decoder.model.embed_tokens.weight[7] = float("inf")
    broken, sound = job((7,) * 40, [(5, 6)]), job((8,) * 35, [(5, 6), (9, 6, 2)])
    spoilt = native_engine(decoder, dtype, cache_bytes=100_000)
    want = logits(native_engine(random_decoder(PLAIN), dtype), [sound])
    for _ in range(4):  # pages go round
        assert not torch.tensor(logits(spoilt, [broken])).isfinite().any()
        assert logits(spoilt, [sound, broken])[:-1] == want
