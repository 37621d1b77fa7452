"""Adds up what the Redis servers that one process works through say of its tenants. Asks none."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import reduce

from service.gate.job import GateStats, NodeStats

FRESH_SECONDS = 3.0  # a few looks


class Ledgers:
    """The last snapshot of each side; whoever shows them sees one pool, that of the side in use."""

    def __init__(
        self,
        show: Callable[[GateStats], None],
        in_use: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._show = show
        self._in_use = in_use
        self._clock = clock
        self._seen: dict[int, tuple[float, GateStats]] = {}  # when, on our own clock

    def of(self, side: int) -> Callable[[GateStats], None]:
        """Takes the snapshots of one side."""

        def observe(stats: GateStats) -> None:
            self._seen[side] = self._clock(), stats
            if side == self._in_use():
                self._show(reduce(added, self._others(side), stats))

        return observe

    def _others(self, side: int) -> list[GateStats]:
        """Of one that is away nobody knows what still waits there."""
        now = self._clock()
        return [
            stats if now - at < FRESH_SECONDS else at_rest(stats)
            for name, (at, stats) in self._seen.items()
            if name != side
        ]


def at_rest(stats: GateStats) -> GateStats:
    """The same service without a job."""
    none = {"queued_jobs": 0, "queued_tokens": 0, "leased_jobs": 0}
    return replace(stats, nodes={name: replace(node, **none) for name, node in stats.nodes.items()})


def added(latest: GateStats, other: GateStats) -> GateStats:
    """The tenants' sums over both, and of what nobody paid; what is no sum is `latest`'s."""
    nodes = dict(other.nodes)
    for name, node in latest.nodes.items():
        nodes[name] = _both(node, nodes[name]) if name in nodes else node
    workers = dict(other.workers) | dict(latest.workers)
    now_ms = max(latest.now_ms, other.now_ms)  # two clocks, and history must not run backwards
    return replace(
        latest,
        nodes=nodes,
        workers=workers,
        now_ms=now_ms,
        platform=latest.platform + other.platform,
        uncharged=latest.uncharged + other.uncharged,
    )


def _both(latest: NodeStats, other: NodeStats) -> NodeStats:
    return replace(
        latest,
        queued_jobs=latest.queued_jobs + other.queued_jobs,
        queued_tokens=latest.queued_tokens + other.queued_tokens,
        leased_jobs=latest.leased_jobs + other.leased_jobs,
        service=latest.service + other.service,
    )
