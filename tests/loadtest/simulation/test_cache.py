"""Blocks stay while locked and leave leaf first, the least recently used before others."""

from __future__ import annotations

import pytest

from loadtest.simulation.cache import BlockCache

CHAIN = ("a", "b", "c")
BRANCH = ("a", "b", "d")


@pytest.fixture
def cache() -> BlockCache:
    return BlockCache()


def test_a_branch_shares_the_front_of_a_chain(cache: BlockCache) -> None:
    cache.add(CHAIN)
    assert cache.matched(BRANCH) == 2
    cache.add(BRANCH)
    assert cache.resident == 4


def test_leaves_go_first_and_the_oldest_of_them(cache: BlockCache) -> None:
    cache.add(CHAIN)
    cache.add(BRANCH)
    cache.evict(1)
    assert (cache.matched(CHAIN), cache.matched(BRANCH)) == (2, 3)
    cache.evict(2)
    assert (cache.matched(CHAIN), cache.matched(BRANCH)) == (1, 1)


def test_use_makes_a_chain_young_again(cache: BlockCache) -> None:
    cache.add(CHAIN)
    cache.add(BRANCH)
    cache.add(CHAIN)
    cache.evict(1)
    assert (cache.matched(CHAIN), cache.matched(BRANCH)) == (3, 2)


def test_locked_blocks_are_never_evicted(cache: BlockCache) -> None:
    cache.lock(CHAIN)
    cache.add(BRANCH)
    cache.evict(1)
    with pytest.raises(IndexError):
        cache.evict(1)
    assert cache.matched(CHAIN) == 3


def test_a_chain_locked_twice_is_unlocked_twice(cache: BlockCache) -> None:
    cache.lock(CHAIN)
    cache.lock(BRANCH)
    cache.unlock(CHAIN)
    assert cache.locked == 3
    cache.unlock(BRANCH)
    assert (cache.locked, cache.resident) == (0, 4)


def test_events_tell_what_changed_on_balance(cache: BlockCache) -> None:
    cache.add(CHAIN)
    assert cache.events() == (["a", "b", "c"], [])
    cache.evict(1)
    cache.add(CHAIN)
    cache.evict(2)
    assert cache.events() == ([], ["c", "b"])
    cache.add(("x",))
    cache.evict(1)
    assert cache.events() == (["x"], ["a"])
