"""What jobs cost and who pays: reserved at claim, refunded at settle. Knows no queue, no Redis."""

from __future__ import annotations

from collections.abc import Sequence

from service.gate import policy
from service.gate.job import Job, LevelStanding
from service.gate.queues import Entry
from service.gate.settings import GateSettings
from service.gate.tree import Node, Tree

MOST_SHARERS = 15


class Ledger:
    """The tree of counters with the pool's own accounts."""

    def __init__(self, settings: GateSettings) -> None:
        self.tree = Tree(settings.quantum, settings.refill)
        self.tree.policy = settings.policy
        self.platform = 0  # what the platform bore for shared contexts
        self.uncharged = 0  # use above what was reserved
        self.largest_cost = 0  # U' of the jobs seen so far
        self._settings = settings

    def cost(self, job: Job, uncached_context: int, output_tokens: int) -> int:
        """w_e extend tokens + w_q output tokens, at least 1: nothing is free."""
        extend = self._settings.extend_weight * (uncached_context + job.candidate_tokens)
        return max(1, extend + self._settings.output_weight * output_tokens)

    def expect(self, job: Job) -> None:
        """Notes the most a job may cost."""
        worst = self.cost(job, job.context_tokens, job.output_tokens)
        self.largest_cost = max(self.largest_cost, worst)

    @property
    def queued_cost(self) -> int:
        """Most that all waiting jobs cost together."""
        root, settings = self.tree.root, self._settings
        return root.tokens * max(settings.extend_weight, settings.output_weight) + root.jobs

    def in_credit(self, leaf: Node) -> bool:
        """Whether all levels of a leaf are positive."""
        return not self.tree.gated or all(node.deficit > 0 for node in leaf.lineage())

    def reserve(self, entry: Entry, uncached_context: int, sharers: Sequence[str]) -> None:
        """Charges the worst case to the entry's leaf and those who share its context."""
        job = entry.job
        entry.charged = self.cost(job, uncached_context, job.output_tokens)
        context_cost = min(entry.charged - 1, self._settings.extend_weight * uncached_context)
        others = [leaf for leaf in sharers if self.in_credit(self.tree.nodes[leaf])][:MOST_SHARERS]
        entry.payers = policy.shares(
            self._settings.attribution, entry.charged, context_cost, entry.leaf.id, others
        )
        self.tree.advance(entry.leaf, job.tokens)
        self._pay(entry.payers)

    def refund(self, entry: Entry, cost: int) -> None:
        """Gives back `cost`, to the entry's own leaf first."""
        parts = []
        for payer, paid in entry.payers:
            parts.append((payer, -min(paid, cost)))
            cost -= min(paid, cost)
        self._pay([part for part in parts if part[1]])

    def reconcile(self, entry: Entry, extend_tokens: int, output_tokens: int) -> None:
        """Refunds what was reserved above the use; use above it is counted, not charged."""
        used = self._settings.extend_weight * extend_tokens
        used = max(1, used + self._settings.output_weight * output_tokens)
        self.uncharged += max(0, used - entry.charged)
        self.refund(entry, max(0, entry.charged - used))

    def standing(self, node: Node) -> LevelStanding:
        """One level of a waiting job."""
        assert node.parent is not None
        rivals = [other for other in node.parent.waiting.values() if other is not node]
        return LevelStanding(
            node=node.id,
            deficit=node.deficit,
            weight=node.weight,
            rounds=self.tree.rounds_until_positive(node),
            rivals=len(rivals),
            rival_weight=sum(other.weight for other in rivals),
        )

    def _pay(self, payers: Sequence[tuple[str, int]]) -> None:
        for payer, cost in payers:
            if not payer:
                self.platform += cost
                self.tree.root.service += cost
            elif payer in self.tree.nodes:
                self.tree.pay(self.tree.nodes[payer], cost)
