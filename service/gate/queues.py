"""Waiting jobs by worker, tenant and context, and which of them the policy serves next.

Knows no lease, charge or Redis. Pure Python; what the Lua scripts keep in sorted sets.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field

from service.gate import policy
from service.gate.belief import Batch
from service.gate.job import Job
from service.gate.tree import Node, Tree

Group = tuple[str, str]  # leaf and context
Pick = tuple["Entry", bool | None]  # whether it was by prefix, if that is counted


@dataclass(slots=True)
class Entry:
    """A job in the pool: queued, or leased when `epoch` > 0; times are milliseconds."""

    job: Job
    leaf: Node
    sequence: int
    submitted_at: int
    due: int
    served_before: int  # the pool's service at submit
    queue: str = ""  # the worker it waits for; "" when there was none
    expected: str = ""  # the worker that is to hold its context, of several
    attempts: int = 0
    epoch: int = 0
    worker: str = ""  # who holds the lease
    charged: int = 0
    payers: list[tuple[str, int]] = field(default_factory=list)
    lease_ends_at: int = 0
    cancelled: bool = False

    @property
    def by_deadline(self) -> tuple[int, int]:
        """Order within a group and a queue."""
        return self.due, self.sequence

    @property
    def by_deadline_in_tree(self) -> tuple[int, tuple[str, ...], int]:
        """Order among leaves: equal deadlines are told apart level by level, by name."""
        return self.due, tuple(level.name for level in self.job.path), self.sequence


class Queues:
    """One queue per worker; a queue's jobs of one leaf and context form a group."""

    def __init__(self) -> None:
        self._groups: dict[str, dict[Group, list[Entry]]] = {}

    def add(self, entry: Entry) -> None:
        """Queues an entry under `entry.queue`."""
        groups = self._groups.setdefault(entry.queue, {})
        group = groups.setdefault((entry.leaf.id, entry.job.context_id), [])
        insort(group, entry, key=lambda other: other.by_deadline)

    def remove(self, entry: Entry) -> None:
        """Takes an entry out."""
        groups = self._groups[entry.queue]
        group = groups[entry.leaf.id, entry.job.context_id]
        group.remove(entry)
        if not group:
            del groups[entry.leaf.id, entry.job.context_id]
        if not groups:
            del self._groups[entry.queue]

    def names(self) -> list[str]:
        """Workers for whom something waits."""
        return sorted(self._groups)

    def by_deadline(self, queue: str) -> list[Entry]:
        """All entries of one queue, the earliest due first."""
        groups = self._groups.get(queue, {}).values()
        return sorted((one for group in groups for one in group), key=lambda one: one.by_deadline)

    def sharers(self, queue: str, context: str) -> list[str]:
        """Leaves that wait in the queue on one context, by name."""
        return sorted(leaf for leaf, other in self._groups.get(queue, {}) if other == context)

    def groups(self, queue: str, leaves: set[str]) -> list[list[Entry]]:
        """The queue's groups of these leaves."""
        groups = self._groups.get(queue, {})
        return [group for (leaf, _context), group in groups.items() if leaf in leaves]


def hottest(groups: list[list[Entry]], batch: Batch, counting: bool) -> Entry:
    """Highest heat first, ties by arrival; where there is none, the earliest deadline.

    Unless `counting`, every group counts as one job: longest prefix match as it was published.
    """
    heats = [_heat(group, batch, counting) for group in groups]
    highest = max(heats)
    if not highest:
        return earliest(groups)
    hot = (group for group, heat in zip(groups, heats, strict=True) if heat == highest)
    return min((one for group in hot for one in group), key=lambda one: one.sequence)


def _heat(group: list[Entry], batch: Batch, counting: bool) -> int:
    job = group[0].job
    shared = counting and job.context_hashes
    return policy.heat(batch.matched(job), len(group) if shared else 1)


def earliest(groups: list[list[Entry]]) -> Entry:
    """Earliest deadline first."""
    return min((group[0] for group in groups), key=lambda entry: entry.by_deadline_in_tree)


def least_served(groups: list[list[Entry]]) -> Entry:
    """VTC: at every level the smallest virtual counter, then the earliest deadline."""

    def key(leaf: Node) -> tuple[tuple[int, str], ...]:
        return tuple((node.virtual, node.name) for node in reversed([*leaf.lineage()]))

    leaves = {group[0].leaf.id: group[0].leaf for group in groups}
    least = min(leaves.values(), key=key)
    return earliest([group for group in groups if group[0].leaf is least])


def choose(
    groups: list[list[Entry]], batch: Batch, tree: Tree, streak: int, overtakes: int
) -> Pick:
    """What the policy serves next, after `streak` picks by prefix in a row in the groups' queue."""
    if tree.policy == "vtc":
        return least_served(groups), None
    if tree.policy == "fcfs":
        return earliest(groups), None
    if tree.policy == "dlpm" and policy.prefers_due(streak, overtakes):
        return earliest(groups), False
    hot = hottest(groups, batch, counting=tree.gated)
    if tree.policy == "lpm":
        return hot, None
    if tree.policy == "hrrn":
        due = earliest(groups)
        return (due if _responds_sooner(due, hot, batch, tree) else hot), None
    if policy.prefers_due(hot.leaf.streaks[hot.queue], overtakes):
        return earliest([group for group in groups if group[0].leaf is hot.leaf]), False
    return hot, True


def _responds_sooner(due: Entry, hot: Entry, batch: Batch, tree: Tree) -> bool:
    served = tree.root.service
    return policy.responds_sooner(
        served - due.served_before,
        due.job.tokens - batch.matched_tokens(due.job),
        served - hot.served_before,
        hot.job.tokens - batch.matched_tokens(hot.job),
    )
