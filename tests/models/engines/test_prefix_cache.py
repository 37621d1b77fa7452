"""The cache's invariants under random use, against a mirror that only reads its events."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.engines.prefix_cache import PrefixCache

BLOCK_BYTES = 4 * 2 * 3


def block(value: float = 0.0, tokens: int = 3) -> Tensor:
    return torch.full((1, 2, tokens, 1, 1), value)


def chain(path: str) -> tuple[str, ...]:
    """Block names that, like hashes, contain everything before them: "ab" -> ("a", "ab")."""
    return tuple(path[: end + 1] for end in range(len(path)))


def insert(cache: PrefixCache, path: str) -> int:
    names = chain(path)
    held = cache.match(names)
    return cache.insert(names, [block(float(i)) for i in range(held, len(names))])


def held(cache: PrefixCache, paths: Sequence[str]) -> list[int]:
    return [cache.match(chain(path)) for path in paths]


def test_the_longest_held_prefix_matches() -> None:
    cache = PrefixCache(100 * BLOCK_BYTES)
    insert(cache, "abc")
    assert held(cache, ["abc", "abd", "ab", "x", "", "abcd"]) == [3, 2, 2, 0, 0, 3]


def test_read_gives_back_what_was_inserted() -> None:
    cache = PrefixCache(100 * BLOCK_BYTES)
    insert(cache, "abc")
    assert [float(kv[0, 0, 0, 0, 0]) for kv in cache.read(chain("abc"))] == [0.0, 1.0, 2.0]


def test_held_blocks_own_their_bytes() -> None:
    cache = PrefixCache(100 * BLOCK_BYTES)
    whole = torch.zeros(1, 2, 300, 1, 1)
    cache.insert(chain("a"), [whole[:, :, :3]])
    (kept,) = cache.read(chain("a"))
    assert kept.untyped_storage().nbytes() == BLOCK_BYTES == cache.used_bytes


def test_a_short_last_block_counts_its_own_bytes() -> None:
    cache = PrefixCache(100 * BLOCK_BYTES)
    cache.insert(chain("ab"), [block(), block(tokens=1)])
    assert cache.used_bytes == BLOCK_BYTES + BLOCK_BYTES // 3


def test_the_least_recently_used_leaf_goes_first() -> None:
    cache = PrefixCache(4 * BLOCK_BYTES)
    insert(cache, "ab")
    insert(cache, "cd")
    cache.match(chain("ab"))
    insert(cache, "e")
    assert held(cache, ["ab", "cd", "e"]) == [2, 1, 1]


def test_parents_outlive_their_children() -> None:
    cache = PrefixCache(3 * BLOCK_BYTES)
    insert(cache, "abc")
    insert(cache, "x")
    assert held(cache, ["abc", "x"]) == [2, 1]


def test_a_chain_above_the_budget_keeps_its_head() -> None:
    cache = PrefixCache(2 * BLOCK_BYTES)
    assert insert(cache, "abcd") == 2
    assert held(cache, ["abcd"]) == [2]


def test_a_block_above_the_whole_budget_evicts_nothing() -> None:
    cache = PrefixCache(2 * BLOCK_BYTES)
    insert(cache, "ab")
    assert cache.insert(chain("x"), [block(tokens=30)]) == 0
    assert held(cache, ["ab"]) == [2]


def test_pinned_blocks_stay_whatever_comes() -> None:
    cache = PrefixCache(2 * BLOCK_BYTES)
    insert(cache, "ab")
    with cache.pinned(chain("ab")), cache.pinned(chain("a")):
        assert insert(cache, "xy") == 0
        assert held(cache, ["ab"]) == [2]
    assert insert(cache, "xy") == 2
    assert held(cache, ["ab"]) == [0]


def test_an_insert_below_a_missing_parent_is_a_bug_of_ours() -> None:
    with pytest.raises(AssertionError, match="not held"):
        PrefixCache(1000).insert(chain("ab"), [block()])


def test_events_leave_out_what_came_and_went() -> None:
    cache = PrefixCache(2 * BLOCK_BYTES)
    insert(cache, "ab")
    assert cache.drain_events().inserted == ("a", "ab")
    insert(cache, "xy")
    insert(cache, "ab")
    events = cache.drain_events()
    assert (events.inserted, events.evicted) == ((), ())


PATHS = st.text("abc", min_size=1, max_size=5)
STEPS = st.tuples(st.sampled_from(["insert", "match", "pin", "unpin", "drain"]), PATHS)


@given(st.integers(0, 9), st.lists(STEPS, max_size=60))
def test_invariants_hold_under_any_use(budget: int, steps: list[tuple[str, str]]) -> None:
    cache = PrefixCache(budget * BLOCK_BYTES)
    mirror: set[str] = set()
    pins: list[tuple[tuple[str, ...], object]] = []
    for verb, path in steps:
        if verb == "insert":
            insert(cache, path)
        elif verb == "match":
            cache.match(chain(path))
        elif verb == "pin":
            names = chain(path)[: cache.match(chain(path))]
            pin = cache.pinned(names)
            pin.__enter__()
            pins.append((names, pin))
        elif verb == "unpin" and pins:
            pins.pop()[1].__exit__(None, None, None)  # type: ignore[attr-defined]
        else:
            replay(cache, mirror)
        check(cache, [names for names, _ in pins])
    replay(cache, mirror)
    assert mirror == set(cache._blocks)


def replay(cache: PrefixCache, mirror: set[str]) -> None:
    """Applies drained events; every intermediate state must be a tree."""
    events = cache.drain_events()
    for name in events.evicted:
        assert not any(other.startswith(name) and other != name for other in mirror)
        mirror.remove(name)
    for name in events.inserted:
        assert name not in mirror
        assert len(name) == 1 or name[:-1] in mirror
        mirror.add(name)


def check(cache: PrefixCache, pinned: list[tuple[str, ...]]) -> None:
    names = set(cache._blocks)
    assert cache.used_bytes == BLOCK_BYTES * len(names) <= cache.capacity_bytes
    assert all(len(name) == 1 or name[:-1] in names for name in names)
    assert all(name in names for held_names in pinned for name in held_names)
