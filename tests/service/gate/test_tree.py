"""The weighted tree: counts, charges and refills at every level."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.gate.tree import VIRTUAL_SCALE, Node, Tree
from tests.service.gate.jobs import levels

QUANTUM = 100


def leaf(tree: Tree, path: str, deficit: int = 0, jobs: int = 0) -> Node:
    """A leaf with this counter; its waiting jobs have a token each."""
    node = tree.leaf(levels(path))
    node.deficit = deficit
    tree.enqueue(node, jobs, jobs)
    return node


@pytest.fixture
def tree() -> Tree:
    return Tree(QUANTUM)


def test_a_path_makes_its_nodes_once_and_renews_their_weights(tree: Tree) -> None:
    node = leaf(tree, "batch:2/acme:3")
    assert tree.leaf(levels("batch:5/acme:1")) is node
    assert {name: one.weight for name, one in tree.nodes.items() if name} == {
        "batch": 5,
        "batch/acme": 1,
    }
    assert tree.nodes["batch/acme"] is node
    assert [one.id for one in node.lineage()] == ["batch/acme", "batch"]


def test_jobs_wait_at_one_depth_only(tree: Tree) -> None:
    leaf(tree, "acme/alice")
    assert not tree.conflicts(levels("acme"))
    tree.enqueue(tree.nodes["acme/alice"], 1, 10)
    assert tree.conflicts(levels("acme"))
    assert tree.conflicts(levels("acme/alice/u7"))
    assert not tree.conflicts(levels("acme/alice"))
    assert not tree.conflicts(levels("acme/bob"))
    assert not tree.conflicts(levels("other"))


def test_waiting_jobs_count_at_every_level(tree: Tree) -> None:
    alice, bob = leaf(tree, "acme/alice", jobs=3), leaf(tree, "acme/bob", jobs=2)
    tree.enqueue(bob, -2, -2)
    acme = tree.nodes["acme"]
    assert [(node.jobs, node.tokens) for node in (alice, bob, acme, tree.root)] == [
        (3, 3),
        (0, 0),
        (3, 3),
        (3, 3),
    ]
    assert list(acme.waiting) == ["alice"]
    assert list(tree.root.waiting) == ["acme"]


def test_a_newcomer_waits_for_the_refill_that_comes_when_nobody_is_positive(tree: Tree) -> None:
    rich, poor = leaf(tree, "rich", deficit=5, jobs=1), leaf(tree, "poor:2", jobs=1)
    assert tree.eligible_leaves() == {"rich"}
    tree.refill(rich)
    assert (rich.deficit, poor.deficit) == (5, 0)
    tree.pay(rich, 5)
    assert tree.eligible_leaves() == {"rich", "poor"}
    tree.refill(poor)
    assert (rich.deficit, poor.deficit) == (QUANTUM, 2 * QUANTUM)


def test_a_refill_waits_until_somebody_is_served_for_it(tree: Tree) -> None:
    spender = leaf(tree, "spender", deficit=5, jobs=2)
    tree.pay(spender, 350)
    quiet = leaf(tree, "quiet", deficit=1, jobs=1)
    assert tree.eligible_leaves() == {"quiet"}
    assert (spender.deficit, quiet.deficit) == (-345, 1)
    tree.pay(quiet, 151)
    assert tree.eligible_leaves() == {"quiet"}
    tree.refill(quiet)
    assert (spender.deficit, quiet.deficit, tree.root.round) == (-145, 50, 2)


def test_a_refill_reaches_those_who_do_not_wait_and_passes_over_those_in_credit(
    tree: Tree,
) -> None:
    waiting, idle = leaf(tree, "waiting", jobs=1), leaf(tree, "idle:2", deficit=-250)
    saver = leaf(tree, "saver", deficit=7)
    tree.refill(waiting)
    assert [node.deficit for node in (waiting, idle, saver)] == [100, -50, 7]


def test_rounds_in_which_nobody_waiting_turns_positive_are_jumped_over(tree: Tree) -> None:
    debtor, idle = leaf(tree, "debtor", deficit=-950, jobs=1), leaf(tree, "idle", deficit=-250)
    tree.refill(debtor)
    assert (debtor.deficit, idle.deficit, tree.root.round) == (50, 50, 10)


@given(
    st.lists(
        st.tuples(st.integers(-3_000, 200), st.integers(1, 4), st.booleans()), max_size=6
    ).filter(lambda rows: any(waits for *_, waits in rows))
)
def test_a_refill_equals_the_papers_repeated_ones(
    rows: list[tuple[int, int, bool]],
) -> None:
    tree = Tree(QUANTUM)
    nodes = [
        leaf(tree, f"n-{at}:{weight}", deficit, jobs=int(waits))
        for at, (deficit, weight, waits) in enumerate(rows)
    ]
    expected = [deficit for deficit, _weight, _waits in rows]
    while not any(q > 0 for q, row in zip(expected, rows, strict=True) if row[2]):
        expected = [
            q + row[1] * QUANTUM if q <= 0 else q for q, row in zip(expected, rows, strict=True)
        ]
    tree.refill(tree.nodes[min(tree.eligible_leaves())])
    assert [node.deficit for node in nodes] == expected


def test_every_level_is_charged_and_refilled_among_its_own_siblings(tree: Tree) -> None:
    alice = leaf(tree, "acme/alice", deficit=30, jobs=1)
    bob = leaf(tree, "acme/bob", deficit=30, jobs=1)
    tree.nodes["acme"].deficit = 30
    other = leaf(tree, "other", deficit=10, jobs=1)
    tree.pay(alice, 40)
    assert tree.eligible_leaves() == {"other"}
    tree.refill(other)
    assert (alice.deficit, bob.deficit) == (-10, 30)
    assert tree.nodes["acme"].deficit == -10
    assert other.deficit == 10
    assert [node.service for node in (alice, bob, tree.nodes["acme"], tree.root)] == [40, 0, 40, 40]


def test_a_job_may_be_served_when_all_its_levels_are_positive(tree: Tree) -> None:
    leaf(tree, "acme/alice", deficit=1, jobs=1)
    leaf(tree, "acme/bob", deficit=0, jobs=1)
    leaf(tree, "acme/idle", deficit=1)
    leaf(tree, "broke/carol", deficit=9, jobs=1)
    tree.nodes["acme"].deficit = 1
    assert tree.eligible_leaves() == {"acme/alice"}
    tree.nodes["broke"].deficit = 1
    assert tree.eligible_leaves() == {"acme/alice", "broke/carol"}


@pytest.mark.parametrize("name", ["vtc", "lpm", "fcfs", "hrrn"])
def test_deficits_count_for_nothing_under_another_policy(tree: Tree, name: str) -> None:
    debtor = leaf(tree, "debtor", deficit=-500, jobs=1)
    tree.policy = name
    assert tree.eligible_leaves() == {"debtor"}
    tree.refill(debtor)
    tree.pay(debtor, 40)
    assert (debtor.deficit, debtor.service) == (-500, 40)
    assert tree.rounds_until_positive(debtor) == 0


def test_the_first_to_turn_positive_are_looked_for_at_every_level(tree: Tree) -> None:
    leaf(tree, "acme/alice", deficit=-110, jobs=1)
    leaf(tree, "acme/bob", deficit=-10, jobs=1)
    leaf(tree, "solo/carol", deficit=-310, jobs=1)
    leaf(tree, "late/dave", deficit=1, jobs=1)
    tree.nodes["late"].deficit = -100
    assert tree.eligible_leaves() == {"acme/bob", "solo/carol"}
    tree.refill(tree.nodes["solo/carol"])
    assert tree.nodes["solo/carol"].deficit == 90
    assert tree.nodes["acme/bob"].deficit == -10


def test_a_virtual_counter_grows_by_tokens_per_weight_at_every_level(tree: Tree) -> None:
    node = leaf(tree, "acme:4/alice:2")
    tree.advance(node, 10)
    assert node.virtual == 5 * VIRTUAL_SCALE
    assert tree.nodes["acme"].virtual == 10 * VIRTUAL_SCALE // 4


def test_idleness_is_not_banked_under_vtc(tree: Tree) -> None:
    tree.policy = "vtc"
    busy = [leaf(tree, name, jobs=1) for name in ("one", "two")]
    for node, tokens in zip(busy, (70, 40), strict=True):
        tree.advance(node, tokens)
    late = leaf(tree, "late", jobs=1)
    assert late.virtual == 40 * VIRTUAL_SCALE
    tree.enqueue(busy[0], 1, 1)
    assert busy[0].virtual == 70 * VIRTUAL_SCALE


def test_whoever_was_ahead_under_vtc_stays_ahead_when_it_comes_back(tree: Tree) -> None:
    tree.policy = "vtc"
    ahead, behind = (leaf(tree, name, jobs=1) for name in ("ahead", "behind"))
    tree.advance(ahead, 90)
    tree.advance(behind, 40)
    tree.enqueue(ahead, -1, -1)
    tree.enqueue(ahead, 1, 1)
    assert ahead.virtual == 90 * VIRTUAL_SCALE
