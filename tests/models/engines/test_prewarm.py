"""A job without candidates leaves its context in the cache and disturbs nobody beside it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from models.directory import ModelDirectory
from models.engines.base import JobScores, ScoreJob
from models.engines.device_runner import DeviceRunner, DeviceSettings
from models.engines.fairslate import FairslateEngine, RunnerEngine
from tests.models.engines.native import needs_native

ON_CPU = DeviceSettings("cpu", "fp32", max_context_tokens=256)
CACHE_BYTES = 1 << 22


def paged(directory: ModelDirectory, cache_bytes: int) -> RunnerEngine:
    return RunnerEngine(DeviceRunner.from_directory(directory, cache_bytes, ON_CPU))


def on_torch(directory: ModelDirectory, cache_bytes: int) -> RunnerEngine:
    return FairslateEngine(directory, cache_bytes, dtype="float32", backend="torch")


def native(directory: ModelDirectory, cache_bytes: int) -> RunnerEngine:
    return FairslateEngine(directory, cache_bytes, dtype="float32", backend="native")


@pytest.fixture(params=[paged, on_torch, pytest.param(native, marks=needs_native)])
def make_engine(
    request: pytest.FixtureRequest, tiny_directory: ModelDirectory
) -> Callable[[int], RunnerEngine]:
    return partial(request.param, tiny_directory)


def job(directory: ModelDirectory, context: str, *texts: str) -> ScoreJob:
    ids = directory.prompt.encode_context(context).ids
    hashes = directory.prompt.block_hashes(ids, directory.card.block_size)
    candidates = directory.prompt.encode_candidates(texts)
    return ScoreJob(ids, hashes, tuple(candidate.ids for candidate in candidates))


def logits(scores: JobScores) -> object:
    return pytest.approx(scores.raw_logits, abs=1e-5)


def test_a_slate_finds_the_context_that_was_read_ahead(
    make_engine: Callable[[int], RunnerEngine], tiny_directory: ModelDirectory
) -> None:
    ahead = job(tiny_directory, "Nurse " * 30)
    slate = job(tiny_directory, "Nurse " * 30, "Welder", "Roofer, night shift")
    (cold,) = make_engine(CACHE_BYTES).score([slate])
    engine = make_engine(CACHE_BYTES)
    (read,) = engine.score([ahead])
    assert (read.raw_logits, read.candidate_tokens, read.cached_tokens) == ((), 0, 0)
    assert read.extend_tokens == len(ahead.context_ids)
    assert set(ahead.block_hashes) == set(engine.drain_cache_events().inserted)
    (warm,) = engine.score([slate])
    assert warm.cached_tokens == warm.context_tokens
    assert warm.raw_logits == logits(cold)
    (again,) = engine.score([ahead])
    assert again.extend_tokens == 0


def test_contexts_alone_stand_between_slates_of_one_batch(
    make_engine: Callable[[int], RunnerEngine], tiny_directory: ModelDirectory
) -> None:
    slates = [job(tiny_directory, name, "Welder", "Roofer") for name in ("Nurse", "Teacher")]
    alone = [make_engine(CACHE_BYTES).score([slate])[0] for slate in slates]
    batch = [
        job(tiny_directory, "Welder " * 20),
        slates[0],
        job(tiny_directory, "Cook"),
        slates[1],
        job(tiny_directory, "Teacher"),
    ]
    scores = make_engine(CACHE_BYTES).score(batch)
    assert scores[1].raw_logits == logits(alone[0])
    assert scores[3].raw_logits == logits(alone[1])
    assert [scores[index].raw_logits for index in (0, 2, 4)] == [(), (), ()]


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_a_cache_below_one_context_costs_time_but_no_score(
    make_engine: Callable[[int], RunnerEngine], tiny_directory: ModelDirectory, blocks: int
) -> None:
    config = tiny_directory.config
    width = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    engine = make_engine(blocks * tiny_directory.card.block_size * width)
    slate = job(tiny_directory, "Nurse " * 60, "Welder", "Roofer")
    assert len(slate.block_hashes) > 3
    (expected,) = make_engine(CACHE_BYTES).score([slate])
    engine.score([job(tiny_directory, "Nurse " * 60)])
    held = len(engine.drain_cache_events().inserted)
    assert held <= blocks
    (scores,) = engine.score([slate])
    assert scores.cached_tokens == held * tiny_directory.card.block_size
    assert scores.raw_logits == logits(expected)
