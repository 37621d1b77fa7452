"""Lattices: what they hold, what they refuse, and their ways against the plain list of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.reasons.lattice import Branches, Lattice, LatticeError, insert

WAYS = st.sets(st.lists(st.integers(1, 4), max_size=5).map(tuple), min_size=1, max_size=12)


def ways(lattice: Lattice, node: int = 0) -> Iterator[tuple[int, ...]]:
    """Every sequence of tokens that the lattice holds."""
    if node == lattice.end:
        yield ()
    for token, target in lattice.nodes[node]:
        for rest in ways(lattice, target):
            yield (token, *rest)


def lattice_of(sequences: set[tuple[int, ...]], tail: tuple[int, ...] = (0,)) -> Lattice:
    """Each sequence with the same tail, which begins with a token of none of them."""
    start: Branches = {}
    shared: Branches = {}
    insert(shared, (9, *tail), {})
    for sequence in sequences:
        insert(start, (*sequence, 0), shared)
    return Lattice.of(start)


@given(WAYS)
def test_it_holds_just_what_was_inserted(sequences: set[tuple[int, ...]]) -> None:
    lattice = lattice_of(sequences)
    assert sorted(ways(lattice)) == sorted((*one, 0, 9, 0) for one in sequences)
    assert lattice.longest == max(map(len, sequences)) + 3


@given(WAYS)
def test_common_ends_stand_in_it_once(sequences: set[tuple[int, ...]]) -> None:
    longer = len(lattice_of(sequences, (0,) * 8).nodes) - len(lattice_of(sequences, (0,)).nodes)
    assert longer == 7


@given(WAYS)
def test_choices_and_what_they_force_lead_to_the_end(sequences: set[tuple[int, ...]]) -> None:
    lattice = lattice_of(sequences)
    tokens, node = lattice.forced(0)
    while node != lattice.end:
        assert len(lattice.nodes[node]) > 1
        chosen = max(token for token, _ in lattice.nodes[node])
        forced, node = lattice.forced(lattice.follow(node, chosen))
        tokens += [chosen, *forced]
    assert tuple(tokens) in set(ways(lattice))


@pytest.mark.parametrize(
    "nodes",
    [
        (),
        ((),),
        ((), ()),
        (((1, 0),), ()),  # back to where it began
        (((1, 2),), ()),  # to no node
        (((1, 1), (1, 2)), ((3, 2),), ()),  # one token, two ways
        (((1, 1),), ((2, 2),)),  # an end that leads on
        (((1, 2), (2, 1)), (), ()),  # a way that ends early
    ],
)
def test_other_graphs_are_refused(nodes: tuple[tuple[tuple[int, int], ...], ...]) -> None:
    with pytest.raises(LatticeError):
        Lattice(nodes)


def test_a_token_that_does_not_follow_is_refused() -> None:
    with pytest.raises(LatticeError, match="token 7"):
        lattice_of({(1, 2)}).follow(0, 7)
