"""Adds up what the Redis servers that one process works through say of its tenants. Asks none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import reduce

from service.gate.job import GateStats, NodeStats


class Ledgers:
    """The last snapshot of each side; whoever shows them sees one pool, that of the side in use."""

    def __init__(self, show: Callable[[GateStats], None], in_use: Callable[[], int]) -> None:
        self._show = show
        self._in_use = in_use
        self._seen: dict[int, GateStats] = {}

    def of(self, side: int) -> Callable[[GateStats], None]:
        """Takes the snapshots of one side."""

        def observe(stats: GateStats) -> None:
            self._seen[side] = stats
            if side == self._in_use():
                others = [seen for name, seen in self._seen.items() if name != side]
                self._show(reduce(added, others, stats))

        return observe


def added(latest: GateStats, other: GateStats) -> GateStats:
    """The tenants' sums over both; what is no sum is `latest`'s."""
    nodes = dict(other.nodes)
    for name, node in latest.nodes.items():
        nodes[name] = _both(node, nodes[name]) if name in nodes else node
    workers = dict(other.workers) | dict(latest.workers)
    now_ms = max(latest.now_ms, other.now_ms)  # two clocks, and history must not run backwards
    return replace(latest, nodes=nodes, workers=workers, now_ms=now_ms)


def _both(latest: NodeStats, other: NodeStats) -> NodeStats:
    return replace(
        latest,
        queued_jobs=latest.queued_jobs + other.queued_jobs,
        queued_tokens=latest.queued_tokens + other.queued_tokens,
        leased_jobs=latest.leased_jobs + other.leased_jobs,
        service=latest.service + other.service,
    )
