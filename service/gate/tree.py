"""The weighted tree of deficit counters: one DLPM among the children of every node.

Knows no queue, worker or Redis. Classes, organisations, tenants and users are its levels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from service.gate import policy
from service.gate.job import Level

VIRTUAL_SCALE = 1_000  # so that a virtual counter divided by its weight stays an integer


class Node:
    """One member of one level; its counter q counts among its siblings."""

    def __init__(self, name: str, parent: Node | None) -> None:
        self.name = name
        self.parent = parent
        self.id: str = f"{parent.id}/{name}" if parent and parent.id else name
        self.children: dict[str, Node] = {}
        self.waiting: dict[str, Node] = {}  # children with queued jobs
        self.weight = 1
        self.deficit = 0  # a new node waits for the next refill
        self.virtual = 0  # VTC's counter
        self.round = 0  # refills among the children
        self.service = 0  # charges less refunds
        self.jobs = 0  # queued
        self.tokens = 0
        self.leased = 0
        self.holds_jobs = False  # a leaf: jobs wait under it, and none below its children
        self.credits: dict[str, int] = {}  # D2LPM's q per worker, of a tenant
        self.streaks: Counter[str] = Counter()  # of a leaf that waits: see Pool.claim, by worker

    def lineage(self) -> Iterator[Node]:
        """The node and its ancestors, without the root."""
        node = self
        while node.parent:
            yield node
            node = node.parent


class Tree:
    """All nodes of a pool. `gated` says whether counters decide who may be served (DLPM)."""

    def __init__(self, quantum: int, refill: int | None = None) -> None:
        self._quantum, self._refill = quantum, refill or quantum
        self.policy = "dlpm"
        self.root = Node("", None)
        self.nodes: dict[str, Node] = {"": self.root}

    @property
    def gated(self) -> bool:
        """Whether deficits count: only DLPM charges and refills them."""
        return self.policy == "dlpm"

    def parts(self, levels: Sequence[Level]) -> int:
        """Of how many equal parts the path's end has one: at each level, among those who wait."""
        parts, parent = 1, self.nodes.get("")
        for level in levels:
            child = parent.children.get(level.name) if parent else None
            waiting = len(parent.waiting) if parent else 0
            parts *= waiting if child and child.jobs else waiting + 1
            parent = child
        return parts

    def conflicts(self, levels: Sequence[Level]) -> bool:
        """Whether jobs stand at one of the path's inner nodes, or below its end."""
        ids = ["/".join(level.name for level in levels[: end + 1]) for end in range(len(levels))]
        busy = [
            (place, node)
            for place, node in enumerate(map(self.nodes.get, ids), start=1)
            if node is not None and node.jobs + node.leased
        ]
        return any(node.holds_jobs == (place < len(ids)) for place, node in busy)

    def leaf(self, levels: Sequence[Level]) -> Node:
        """The node at the end of the path, made where missing; weights are those named last."""
        node = self.root
        for level in levels:
            child = node.children.get(level.name)
            if child is None:
                child = node.children[level.name] = Node(level.name, node)
                self.nodes[child.id] = child
            child.weight = level.weight
            node.holds_jobs = False
            node = child
        node.holds_jobs = True
        return node

    def enqueue(self, leaf: Node, jobs: int, tokens: int) -> None:
        """Counts jobs in (or out, negative) at all levels."""
        for node in leaf.lineage():
            if self.policy == "vtc" and jobs > 0 and not node.jobs:
                self._lift(node)
            node.jobs += jobs
            node.tokens += tokens
            assert node.parent is not None
            if node.jobs:
                node.parent.waiting[node.name] = node
            else:
                node.parent.waiting.pop(node.name, None)
                node.streaks.clear()
        self.root.jobs += jobs
        self.root.tokens += tokens

    def pay(self, leaf: Node, cost: int) -> None:
        """Charges `cost` (a refund is negative) at all levels."""
        for node in leaf.lineage():
            node.service += cost
            if self.gated:
                node.deficit -= cost
        self.root.service += cost

    def advance(self, leaf: Node, tokens: int) -> None:
        """VTC's charge: all tokens of a job per weight, cached or not."""
        for node in leaf.lineage():
            node.virtual += tokens * VIRTUAL_SCALE // node.weight

    def refill(self, leaf: Node) -> None:
        """CheckRefill at every level, as often as one of `eligible_leaves` needs to be positive.

        Made only when somebody is served for it, so whoever comes while others are in debt is
        served before them.
        """
        for node in leaf.lineage():
            assert node.parent is not None
            rounds = self.rounds_until_positive(node)
            node.parent.round += rounds
            for sibling in node.parent.children.values() if rounds else ():
                deficit, weight = sibling.deficit, sibling.weight
                sibling.deficit = policy.refilled(
                    deficit, weight, self._refill, self._quantum, rounds
                )

    def eligible_leaves(self) -> set[str]:
        """Ids of the leaves with queued jobs that are the first to turn positive at every level."""
        return {leaf.id for leaf in self._eligible(self.root)}

    def rounds_until_positive(self, node: Node) -> int:
        """Refills until the node may be served."""
        return policy.refills_owed(node.deficit, node.weight, self._refill) if self.gated else 0

    def _eligible(self, parent: Node) -> Iterator[Node]:
        front = min(map(self.rounds_until_positive, parent.waiting.values()), default=0)
        for child in parent.waiting.values():
            if self.rounds_until_positive(child) == front:
                if child.holds_jobs:
                    yield child
                else:
                    yield from self._eligible(child)

    def _lift(self, node: Node) -> None:
        """VTC: idleness is not banked."""
        assert node.parent is not None
        others = [other.virtual for other in node.parent.waiting.values()]
        node.virtual = max(node.virtual, min(others, default=0))
