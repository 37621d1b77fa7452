"""Which blocks stay: leaves go before parents, the least recently used first, a pinned one never.

What lies in the blocks is tested with the two caches that use the tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.engines.base import CacheEvents
from models.engines.block_tree import BlockTree

PATHS = st.text("abc", max_size=5)
USES = st.lists(st.tuples(PATHS, st.integers(1, 3), st.booleans()), max_size=25)


def chain(path: str) -> tuple[str, ...]:
    """Names that, like hashes, contain everything before them: "ab" -> ("a", "ab")."""
    return tuple(path[: end + 1] for end in range(len(path)))


def hold(tree: BlockTree[str], path: str, nbytes: int = 1) -> int:
    """Holds what there is room for, as the caches do; returns how many blocks of it are held."""
    names = chain(path)
    with ExitStack() as pins:
        pins.enter_context(tree.pinned(names[: tree.match(names)]))
        for name in names[tree.match(names) :]:
            if not tree.hold(name, nbytes, partial(str, name)):
                break
            pins.enter_context(tree.pinned((name,)))
    return tree.match(names)


def held(tree: BlockTree[str], paths: Sequence[str]) -> list[int]:
    return [tree.match(chain(path)) for path in paths]


def test_the_least_recently_used_leaf_makes_room() -> None:
    tree: BlockTree[str] = BlockTree(4)
    hold(tree, "ab")
    hold(tree, "x")
    hold(tree, "y")
    tree.match(chain("ab"))
    assert hold(tree, "z") == 1
    assert held(tree, ["x", "y", "z", "ab"]) == [0, 1, 1, 2]
    tree.match(chain("y"))
    hold(tree, "wv")
    assert held(tree, ["z", "ab", "y", "wv"]) == [0, 1, 1, 2], "of a chain the end goes first"


def test_a_use_of_the_beginning_only_leaves_the_end_old() -> None:
    tree: BlockTree[str] = BlockTree(3)
    hold(tree, "ab")
    hold(tree, "x")
    tree.match(chain("a"))
    hold(tree, "y")
    assert held(tree, ["ab", "x", "y"]) == [1, 1, 1]


def test_what_is_pinned_stays_and_nothing_goes_in_vain() -> None:
    dropped: list[str] = []
    tree: BlockTree[str] = BlockTree(3, dropped.append)
    hold(tree, "ab")
    hold(tree, "x")
    with tree.pinned(chain("ab")), tree.pinned(chain("ab")[:1]):
        assert not tree.hold("big", 2, lambda: pytest.fail("made without room"))
        assert dropped == []
    assert tree.hold("big", 2, lambda: "big")
    assert dropped == ["ab", "a"]
    assert tree.read(["x", "big"]) == ["x", "big"]


def test_a_held_block_is_not_made_again_and_pins_end_when_the_block_raises() -> None:
    tree: BlockTree[str] = BlockTree(1)
    hold(tree, "a")
    assert tree.hold("a", 1, lambda: pytest.fail("made twice"))
    with pytest.raises(ZeroDivisionError), tree.pinned(("a",)):
        raise ZeroDivisionError
    assert tree.hold("b", 1, lambda: "b")


def test_events_are_net_of_what_came_and_went_between() -> None:
    tree: BlockTree[str] = BlockTree(2)
    hold(tree, "ab")
    assert tree.drain_events() == CacheEvents(("a", "ab"), ())
    assert tree.drain_events() == CacheEvents()
    hold(tree, "x")
    hold(tree, "ab")
    assert tree.drain_events() == CacheEvents()
    hold(tree, "x")
    hold(tree, "y")
    tree.discard(chain("y"))
    hold(tree, "y")
    assert tree.drain_events() == CacheEvents(("x", "y"), ("ab", "a"))


@given(st.integers(0, 8), USES)
def test_no_budget_is_exceeded_and_no_block_outlives_its_parent(
    capacity: int, uses: list[tuple[str, int, bool]]
) -> None:
    dropped: list[str] = []
    tree: BlockTree[str] = BlockTree(capacity, dropped.append)
    sizes: dict[str, int] = {}
    made: list[str] = []
    mirror: set[str] = set()
    for path, nbytes, fails in uses:
        names = chain(path)
        known, kept = tree.match(names), hold(tree, path, nbytes)
        fresh = names[known:kept]
        made += fresh
        sizes |= dict.fromkeys(fresh, nbytes)
        assert tree.read(names[:kept]) == list(names[:kept])
        if fails:
            tree.discard(fresh)
        events = tree.drain_events()
        mirror = (mirror | set(events.inserted)) - set(events.evicted)
        assert all(name[:-1] in mirror for name in mirror if len(name) > 1)
        assert len(tree) == len(mirror)
        assert tree.used_bytes == sum(sizes[name] for name in mirror) <= capacity
        assert sorted(made) == sorted([*dropped, *mirror])


@given(USES)
def test_the_order_of_going_is_that_of_the_last_use_leaves_first(
    uses: list[tuple[str, int, bool]],
) -> None:
    """Against a plain list: the oldest leaf by its own last use, again and again."""
    dropped: list[str] = []
    tree: BlockTree[str] = BlockTree(100, dropped.append)
    last_use: dict[str, tuple[int, int]] = {}
    for turn, (path, _, only_looks) in enumerate(uses):
        names = chain(path)
        kept = tree.match(names) if only_looks else hold(tree, path)
        last_use |= {name: (turn, -depth) for depth, name in enumerate(names[:kept])}
    expected: list[str] = []
    while last_use:
        leaves = [n for n in last_use if not any(o != n and o.startswith(n) for o in last_use)]
        expected.append(min(leaves, key=last_use.__getitem__))
        del last_use[expected[-1]]
    assert tree.hold("whole", 100, str)
    assert dropped == expected


def test_what_is_discarded_goes_children_first() -> None:
    tree: BlockTree[str] = BlockTree(3)
    hold(tree, "abc")
    tree.drain_events()
    tree.discard(chain("abc"))
    assert tree.drain_events() == CacheEvents((), ("abc", "ab", "a"))
