"""Jobs that no model can score: refused with the limit and the value, before any compute."""

from __future__ import annotations

from dataclasses import replace

import pytest

from models.checkpoint import ModelDirectory
from models.config import DecoderConfig
from models.engines.base import ScoreJob
from models.engines.fairslate import FairslateEngine
from models.engines.job_check import check_job
from models.errors import (
    CandidateTooLongError,
    ContextTooLongError,
    FairslateError,
    PromptError,
    TokenOutOfVocabularyError,
)
from models.prompt import block_hashes


@pytest.fixture
def config(tiny_config: DecoderConfig) -> DecoderConfig:
    return replace(tiny_config, vocab_size=300, max_position_embeddings=64)


def job(context: tuple[int, ...], *candidates: tuple[int, ...]) -> ScoreJob:
    return ScoreJob(context, block_hashes(context, 16), candidates)


REFUSED = [
    (job((1, 300), (1,)), TokenOutOfVocabularyError, r"context .* 1 to 300, .* 0 to 299"),
    (job((1,), (1,), (2, -1)), TokenOutOfVocabularyError, r"candidate 1 .* -1 to 2"),
    (job((1,) * 64), ContextTooLongError, r"64 tokens leaves no room .* 64"),
    (job((1,) * 60, (1,), (1,) * 5), CandidateTooLongError, r"candidate 1 of 5 .* the 4 that"),
    (job((1,), ()), PromptError, r"candidate 0 has no tokens"),
]


@pytest.mark.parametrize(("broken", "kind", "message"), REFUSED)
def test_what_cannot_be_scored_is_named(
    config: DecoderConfig, broken: ScoreJob, kind: type[FairslateError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        check_job(config, broken)


def test_what_just_fits_is_let_through(config: DecoderConfig) -> None:
    check_job(config, job((0, 299) * 30, (299,) * 4))
    check_job(config, job((1,) * 63))
    check_job(config, job((), (1,) * 64))


def test_stored_tokens_are_known_to_candidates_alone(config: DecoderConfig) -> None:
    check_job(config, job((1,), (7, 305, 2)), stored_tokens=6)
    with pytest.raises(TokenOutOfVocabularyError, match=r"candidate 0 .* 2 to 306, .* 0 to 305"):
        check_job(config, job((1,), (7, 306, 2)), stored_tokens=6)
    with pytest.raises(TokenOutOfVocabularyError, match=r"context .* 1 to 300, .* 0 to 299"):
        check_job(config, job((1, 300), (1,)), stored_tokens=6)


def test_a_window_is_a_limit_too(config: DecoderConfig) -> None:
    with pytest.raises(CandidateTooLongError, match="32"):
        check_job(replace(config, sliding_window=32), job((1,) * 20, (1,) * 13))


def test_an_engine_refuses_the_batch_before_it_computes(tiny_directory: ModelDirectory) -> None:
    engine, good = FairslateEngine(tiny_directory, 1 << 20), job((1, 2, 3), (4,))
    with pytest.raises(TokenOutOfVocabularyError):
        engine.score([good, job((1,), (10**6,))])
    engine.check(good)
    assert engine.score([good])[0].cached_tokens == 0
