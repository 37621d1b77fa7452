"""Slates at the edges of the C++ decoder's pages, tiles and passes score as their parts alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from copy import deepcopy

import pytest

from models.engines.base import ScoreJob
from models.engines.fairslate import RunnerEngine
from tests.models.engines.native import (
    BLOCK,
    NARROW_AND_WIDE,
    PLAIN,
    TokenIds,
    drawn,
    job,
    logits,
    native_engine,
    needs_native,
    random_decoder,
    torch_engine,
)

pytestmark = needs_native
RNG = random.Random(11)
CONTEXT, TWIN = drawn(RNG, 44), drawn(RNG, 7)
ONE_BLOCK = drawn(RNG, BLOCK)
FEW = [drawn(RNG, count) for count in (9, 33, 1)]


def many(count: int, longest: int) -> list[TokenIds]:
    return [drawn(RNG, RNG.randint(1, longest)) for _ in range(count)]


SLATES: dict[str, list[ScoreJob]] = {
    "no candidates beside a slate": [job(ONE_BLOCK, []), job(CONTEXT, FEW)],
    "one token each": [job(CONTEXT, [(token,) for token in range(5, 40)])],
    "one token behind one": [job((3,), [(8,)])],
    "one candidate": [job(CONTEXT, FEW[:1])],
    "500 candidates": [job(CONTEXT, many(500, 24))],
    "duplicates": [job(CONTEXT, [TWIN, FEW[0], TWIN, TWIN])],
    "a candidate that equals its context": [job(ONE_BLOCK, [ONE_BLOCK, TWIN])],
    "identical contexts": [job(CONTEXT, FEW), job(CONTEXT, [TWIN]), job(CONTEXT, FEW[::-1])],
    "identical jobs": [job(CONTEXT, FEW)] * 3,
    "one block exactly": [job(ONE_BLOCK, FEW)],
    "a token less and a token more than a block": [
        job(ONE_BLOCK[:-1], FEW),
        job((*ONE_BLOCK, 5), FEW),
    ],
    "candidates of whole blocks": [job(ONE_BLOCK * 2, [ONE_BLOCK, ONE_BLOCK * 2, ONE_BLOCK * 3])],
    "no context": [job((), FEW)],
}
SLATES["duplicates within jobs of one context"] = [*SLATES["duplicates"], *SLATES["one candidate"]]


@pytest.fixture(params=NARROW_AND_WIDE)
def dtype(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def jobs(request: pytest.FixtureRequest) -> list[ScoreJob]:
    return SLATES[request.param]


def singles(engine: RunnerEngine, jobs: Sequence[ScoreJob]) -> list[float]:
    """Every candidate in a pass of its own."""
    alone = [job(slate.context_ids, [ids]) for slate in jobs for ids in slate.candidates]
    return [logit for single in alone for logit in logits(engine, [single])]


@pytest.mark.parametrize("jobs", SLATES, indirect=True)
def test_cold_warm_and_alone_have_the_same_bits(jobs: list[ScoreJob], dtype: str) -> None:
    decoder = random_decoder(PLAIN)
    engine = native_engine(deepcopy(decoder), dtype)
    cold = logits(engine, jobs)
    assert len(cold) == sum(len(slate.candidates) for slate in jobs)
    assert logits(engine, jobs) == cold
    assert singles(native_engine(decoder, dtype, cache_bytes=0, threads=1), jobs) == cold


@pytest.mark.parametrize("jobs", SLATES, indirect=True)
def test_permuted_slates_have_permuted_scores(jobs: list[ScoreJob], dtype: str) -> None:
    engine = native_engine(random_decoder(PLAIN), dtype)
    for slate in jobs:
        order = random.Random(2).sample(range(len(slate.candidates)), len(slate.candidates))
        expected = logits(engine, [slate])
        mixed = job(slate.context_ids, [slate.candidates[index] for index in order])
        assert logits(engine, [mixed]) == [expected[index] for index in order]


@pytest.mark.parametrize("jobs", SLATES, indirect=True)
def test_logits_are_those_of_torch(jobs: list[ScoreJob]) -> None:
    decoder = random_decoder(PLAIN)
    want = logits(torch_engine(deepcopy(decoder)), jobs)
    assert logits(native_engine(decoder), jobs) == pytest.approx(want, abs=2e-5, rel=0)
