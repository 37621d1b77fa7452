"""A slate is completed from what was scored before, and never from another's context."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from models.engines.base import JobScores
from models.prompt import EncodedCandidate, EncodedContext
from models.score_cache import pair_key
from service.jobs.jobs import JobResult
from service.slates.reuse import Reuse
from service.slates.slate import Slate

MUCH = 1 << 20


def slate(*candidates: int, context: str = "00" * 16) -> Slate:
    encoded = tuple(EncodedCandidate((number,), False) for number in candidates)
    return Slate(EncodedContext((1, 2), False), ("ff" * 16, context), encoded)


def scored(*chunks: Sequence[float], heads: int = 1) -> list[JobResult]:
    return [JobResult(JobScores(tuple(row), 2, 0, 1, heads=heads), 0.0, 0.0) for row in chunks]


def test_only_what_is_missing_is_left_to_the_engine() -> None:
    reuse = Reuse(MUCH, 60)
    first = slate(1, 2)
    assert reuse.recall(first) == {}
    assert reuse.complete(first, {}, scored([0.1], [0.2])).rows == ((0.1,), (0.2,))
    second = slate(3, 2, 4, 1)
    known = reuse.recall(second)
    assert known == {1: (0.2,), 3: (0.1,)}
    assert [one.ids for one in second.without(known).candidates] == [(3,), (4,)]
    scores = reuse.complete(second, known, scored([0.3, 0.4]))
    assert scores.rows == ((0.3,), (0.2,), (0.4,), (0.1,))
    assert scores.reused == 2
    assert len(reuse.recall(second)) == 4


def test_another_context_knows_nothing() -> None:
    reuse = Reuse(MUCH, 60)
    reuse.complete(slate(1), {}, scored([0.1]))
    assert reuse.recall(slate(1, context="01" * 16)) == {}


def test_keys_cover_the_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[str] = []

    def key(context_id: str, candidate_ids: Sequence[int], catalogue_digest: str) -> bytes:
        named.append(catalogue_digest)
        return pair_key(context_id, candidate_ids, catalogue_digest)

    monkeypatch.setattr("service.slates.reuse.pair_key", key)
    Reuse(MUCH, 60, "ab" * 32).recall(slate(1, 2))
    assert named == ["ab" * 32] * 2


def test_all_heads_come_back() -> None:
    reuse = Reuse(MUCH, 60)
    reuse.complete(slate(1, 2), {}, scored([0.1, 0.2, 0.3, 0.4], heads=2))
    assert reuse.recall(slate(2, 1)) == {0: (0.3, 0.4), 1: (0.1, 0.2)}


def test_switched_off_it_remembers_nothing() -> None:
    reuse = Reuse(0, 60)
    assert reuse.complete(slate(1), {}, scored([0.1])).rows == ((0.1,),)
    assert reuse.recall(slate(1)) == {}
