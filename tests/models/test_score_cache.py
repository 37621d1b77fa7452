"""The score cache against a plain model of it, its bytes against the allocator's."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.score_cache import ENTRY_BYTES, ScoreCache, pair_key

ENTRY = ENTRY_BYTES + 16  # expiry and one logit


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def key(number: int) -> bytes:
    return pair_key("ab" * 16, [number])


def test_a_pair_comes_back_exactly_by_head() -> None:
    cache = ScoreCache(10 * ENTRY, 60)
    cache.put(key(1), (0.1, -2.5e-7))
    assert cache.get(key(1)) == (0.1, -2.5e-7)
    assert cache.get(key(2)) is None


def test_a_key_tells_contexts_and_candidates_apart() -> None:
    pairs = [("00" * 16, [1, 2]), ("00" * 16, [1]), ("00" * 16, [2, 1]), ("01" * 16, [1, 2])]
    assert len({pair_key(context, ids) for context, ids in pairs}) == 4
    assert pair_key("00" * 16, (1, 2)) == pair_key("00" * 16, [1, 2])


def test_a_key_tells_catalogues_apart() -> None:
    digests = ["", "ab" * 32, "cd" * 32]
    assert len({pair_key("00" * 16, [1, 2], digest) for digest in digests}) == 3


def test_a_pair_expires_however_often_it_is_read() -> None:
    clock = Clock()
    cache = ScoreCache(10 * ENTRY, 60, clock)
    cache.put(key(1), [1.0])
    clock.now = 59.9
    assert cache.get(key(1)) == (1.0,)
    clock.now = 60.0
    assert cache.get(key(1)) is None
    assert (len(cache), cache.used_bytes) == (0, 0)


def test_scoring_a_pair_again_makes_it_young() -> None:
    clock = Clock()
    cache = ScoreCache(10 * ENTRY, 60, clock)
    cache.put(key(1), [1.0])
    clock.now = 50.0
    cache.put(key(1), [2.0])
    clock.now = 100.0
    assert cache.get(key(1)) == (2.0,)
    assert cache.used_bytes == ENTRY


@pytest.mark.parametrize("capacity", [0, ENTRY - 1])
def test_a_budget_below_one_pair_keeps_none(capacity: int) -> None:
    cache = ScoreCache(capacity, 60)
    cache.put(key(1), [1.0])
    assert (cache.get(key(1)), cache.used_bytes) == (None, 0)


def test_it_takes_no_more_memory_than_it_says() -> None:
    tracemalloc.start()
    try:
        cache = ScoreCache(1 << 20, 60)
        for number in range(20_000):
            cache.put(key(number), [float(number)])
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.6 * cache.used_bytes < taken < cache.used_bytes <= cache.capacity_bytes


STEPS = st.tuples(st.sampled_from(["put", "get", "wait"]), st.integers(0, 5))


@given(st.integers(0, 4), st.lists(STEPS, max_size=60))
def test_it_does_what_a_list_would(pairs: int, steps: list[tuple[str, int]]) -> None:
    clock = Clock()
    cache = ScoreCache(pairs * ENTRY, 10, clock)
    mirror: list[tuple[int, float]] = []  # number and expiry, least recently used first
    for action, number in steps:
        mine = [entry for entry in mirror if entry[0] == number]
        others = [entry for entry in mirror if entry[0] != number]
        if action == "wait":
            clock.now += number
        elif action == "put":
            cache.put(key(number), [float(number)])
            mirror = [*others, (number, clock.now + 10)][-pairs:] if pairs else []
        else:
            alive = [entry for entry in mine if entry[1] > clock.now]
            assert cache.get(key(number)) == ((float(number),) if alive else None)
            mirror = [*others, *alive]
        assert cache.used_bytes == len(cache) * ENTRY == len(mirror) * ENTRY
