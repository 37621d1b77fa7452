"""Waiting jobs and the order in which each policy serves them."""

from __future__ import annotations

import pytest

from service.gate.belief import Batch
from service.gate.queues import Entry, Queues, choose, earliest, hottest, least_served
from service.gate.tree import Tree
from tests.service.gate.jobs import build_job, chain

OVERTAKES = 2


class Line:
    """One queue under construction: entries by name, and a cache that holds some contexts."""

    def __init__(self, policy: str = "dlpm", held: str = "") -> None:
        self.tree, self.queues = Tree(100), Queues()
        self.tree.policy = policy
        self.batch = Batch(set(chain(held)))
        self.entries: dict[str, Entry] = {}

    def add(
        self, name: str, path: str, context: str, due: int = 9_000, served_before: int = 0
    ) -> Entry:
        job = build_job(name, path, context)
        number = len(self.entries) + 1
        entry = Entry(job, self.tree.leaf(job.path), number, 0, due, served_before, queue="w")
        self.entries[name] = entry
        self.queues.add(entry)
        return entry

    @property
    def groups(self) -> list[list[Entry]]:
        return self.queues.groups("w", {*self.tree.nodes})

    def choose(self, streak: int = 0) -> tuple[str, bool | None]:
        entry, by_prefix = choose(self.groups, self.batch, self.tree, streak, OVERTAKES)
        return entry.job.job_id, by_prefix

    def drain(self) -> list[str]:
        order, streak = [], 0
        while self.groups:
            name, by_prefix = self.choose(streak)
            streak = streak + 1 if by_prefix else 0
            order.append(name)
            self.queues.remove(self.entries[name])
        return order


def test_a_queue_groups_jobs_by_leaf_and_context_in_order_of_deadline() -> None:
    line = Line()
    line.add("late", "a", "x", due=30)
    line.add("soon", "a", "x", due=10)
    line.add("other context", "a", "y", due=20)
    line.add("other leaf", "b", "x", due=5)
    assert [[entry.job.job_id for entry in group] for group in line.groups] == [
        ["soon", "late"],
        ["other context"],
        ["other leaf"],
    ]
    assert [entry.job.job_id for entry in line.queues.by_deadline("w")] == [
        "other leaf",
        "soon",
        "other context",
        "late",
    ]
    assert line.queues.sharers("w", "x_______") == ["a", "b"]
    assert len(line.queues.groups("w", {"b"})) == 1


def test_an_emptied_queue_has_no_name() -> None:
    line = Line()
    entry = line.add("only", "a", "x")
    assert line.queues.names() == ["w"]
    line.queues.remove(entry)
    assert line.queues.names() == []
    assert line.queues.by_deadline("w") == []


@pytest.mark.parametrize(
    ("rows", "counting", "plain"),
    [
        pytest.param(
            "cold:a:q:1 warm:a:xy:9 hot:b:xyz:9 hot-due-before:b:xyz:2 as-hot:a:xyzw:1",
            "hot",
            "hot",
            id="the longest match goes, and ties by arrival",
        ),
        pytest.param(
            "first:a:q:9 soon:b:r:2",
            "soon",
            "soon",
            id="where nothing matches the earliest deadline goes",
        ),
        pytest.param(
            "alone:a:xp:1 first-of-2:a:xq:9 as-many:b:xr:2 second-of-2:a:xq:2 as-many-2:b:xr:1",
            "first-of-2",
            "alone",
            id="of equal matches the context with most jobs waiting goes",
        ),
        pytest.param(
            "soon:a:q:1 first-of-2:b:r:9 second-of-2:b:r:9 bare:c::5 bare-2:c::5 bare-3:c::5",
            "first-of-2",
            "soon",
            id="many that wait on what nobody holds go before the earliest deadline",
        ),
    ],
)
def test_the_hottest_goes_whether_or_not_those_who_wait_count(
    rows: str, counting: str, plain: str
) -> None:
    line = Line(held="xyz")
    for row in rows.split():
        name, path, context, due = row.split(":")
        line.add(name, path, context, int(due))
    assert hottest(line.groups, line.batch, counting=True) is line.entries[counting]
    assert hottest(line.groups, line.batch, counting=False) is line.entries[plain]


def test_equal_deadlines_are_told_apart_by_name_level_by_level() -> None:
    line = Line()
    line.add("first", "b", "x", due=5)
    line.add("second", "a/z", "x", due=5)
    line.add("third", "a/y", "x", due=5)
    line.add("later", "a/a", "x", due=6)
    assert earliest(line.groups) is line.entries["third"]


def test_the_least_served_is_sought_level_by_level() -> None:
    line = Line("vtc")
    for path, virtual in [("acme/alice", 7), ("acme/bob", 5), ("solo/carol", 1)]:
        line.add(path, path, "x").leaf.virtual = virtual
    line.tree.nodes["acme"].virtual, line.tree.nodes["solo"].virtual = 3, 4
    assert least_served(line.groups) is line.entries["acme/bob"]


def test_of_the_least_served_the_earliest_due_goes() -> None:
    line = Line("vtc")
    line.add("late", "a", "x", due=9)
    line.add("soon", "a", "y", due=3)
    line.add("soonest", "b", "x", due=1).leaf.virtual = 5
    assert line.choose(1) == ("soon", None)


def test_dlpm_serves_by_prefix_but_the_earliest_due_every_so_often() -> None:
    line = Line(held="xyz")
    for number in range(5):
        line.add(f"hot-{number}", "a", "xyz", due=900)
    line.add("cold", "b", "q", due=10)
    line.add("colder", "b", "p", due=20)
    expected = ["hot-0", "hot-1", "cold", "hot-2", "hot-3", "colder", "hot-4"]
    assert line.drain() == expected


def test_a_pick_says_whether_it_goes_by_prefix_or_by_deadline() -> None:
    line = Line(held="x")
    line.add("hot", "a", "x", due=900)
    line.add("due", "a", "q", due=10)
    assert line.choose(0) == ("hot", True)
    assert line.choose(1) == ("hot", True)
    assert line.choose(2) == ("due", False)


def test_a_leaf_serves_its_own_earliest_due_after_its_own_picks_by_prefix() -> None:
    line = Line(held="x")
    line.add("hot", "a", "x", due=900)
    line.add("due", "a", "q", due=20)
    line.add("sooner of another", "b", "p", due=10)
    leaf = line.entries["hot"].leaf
    leaf.streaks["w"], leaf.streaks["other"] = OVERTAKES - 1, 99
    assert line.choose(0) == ("hot", True)
    leaf.streaks["w"] = OVERTAKES
    assert line.choose(0) == ("due", False)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("lpm", ["hot", "later hot", "cold"]), ("fcfs", ["cold", "hot", "later hot"])],
)
def test_the_simple_policies_know_one_order_each(policy: str, expected: list[str]) -> None:
    line = Line(policy, held="x")
    line.add("cold", "a", "q", due=10)
    line.add("hot", "b", "x", due=20)
    line.add("later hot", "b", "x", due=30)
    assert line.drain() == expected


@pytest.mark.parametrize(
    ("cold_waited", "hot_waited", "expected"), [(400, 100, "hot"), (430, 100, "cold")]
)
def test_hrrn_serves_the_due_job_once_its_response_ratio_is_higher(
    cold_waited: int, hot_waited: int, expected: str
) -> None:
    """42 tokens are to be computed for the cold job, 10 for the hot one."""
    line = Line("hrrn", held="xy")
    line.tree.root.service = 1_000
    line.add("cold", "a", "qr", due=10, served_before=1_000 - cold_waited)
    line.add("hot", "b", "xy", due=20, served_before=1_000 - hot_waited)
    assert line.choose(7) == (expected, None)
