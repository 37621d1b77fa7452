"""What a snapshot of the pool says of each tenant. Knows nothing of Redis or of Prometheus."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from service.gate import policy
from service.gate.job import GateStats, NodeStats

WINDOW_MS = 60_000


@dataclass(frozen=True, slots=True)
class Standing:
    """Costs and jobs of one tenant over all its nodes."""

    service: int  # charges less refunds, since the gate knows the tenant
    deficit: int  # the lowest of its nodes
    refills_owed: int  # until that one is in credit; 0 if it is
    weight: int
    queued_jobs: int
    leased_jobs: int
    delivered: int = 0  # tokens of what it was answered, cached ones as well


FORGOTTEN = Standing(0, 0, 0, 1, 0, 0)  # what the pool says of whom it does not know any more


def standings(
    stats: GateStats, owners: Mapping[str, str], refill: int, delivered: Mapping[str, int]
) -> dict[str, Standing]:
    """Standing by owner; `owners` maps ids of tenants' nodes to names of owners.

    delivered: tokens by name of owner.
    """
    nodes: defaultdict[str, list[NodeStats]] = defaultdict(list)
    for node, owner in owners.items():
        if node in stats.nodes:
            nodes[owner].append(stats.nodes[node])
    return {
        owner: _standing(listed, refill, delivered.get(owner, 0)) for owner, listed in nodes.items()
    }


def _standing(nodes: Sequence[NodeStats], refill: int, delivered: int) -> Standing:
    lowest = min(nodes, key=lambda node: node.deficit)
    return Standing(
        service=sum(node.service for node in nodes),
        deficit=lowest.deficit,
        refills_owed=policy.refills_owed(lowest.deficit, lowest.weight, refill),
        weight=lowest.weight,
        queued_jobs=sum(node.queued_jobs for node in nodes),
        leased_jobs=sum(node.leased_jobs for node in nodes),
        delivered=delivered,
    )


class History:
    """Standings of the last minute."""

    def __init__(self) -> None:
        self._snapshots: deque[tuple[int, Mapping[str, Standing]]] = deque()

    def add(self, now_ms: int, standing: Mapping[str, Standing]) -> None:
        """Keeps a snapshot and drops those that have left the window."""
        self._snapshots.append((now_ms, standing))
        while self._snapshots[0][0] < now_ms - WINDOW_MS:
            self._snapshots.popleft()

    def jain(self, field: str) -> float:
        """Jain's index over what `field` of a standing grew by per weight.

        Of tenants with work waiting throughout. 1 is perfectly fair, 1/n gives all to one of n; 1
        as well with fewer than two such tenants.
        """
        first, last = self._snapshots[0][1], self._snapshots[-1][1]
        waiting = [
            {name for name, standing in seen.items() if standing.queued_jobs}
            for _, seen in self._snapshots
        ]
        return jain(
            (getattr(last[name], field) - getattr(first[name], field)) / last[name].weight
            for name in set.intersection(*waiting)
        )


def jain(shares: Iterable[float]) -> float:
    """(sum x)^2 / (n sum x^2), 1 where nothing was shared (Jain, Chiu and Hawe 1984, eq. 2)."""
    listed = list(shares)
    squares = len(listed) * sum(share * share for share in listed)
    return sum(listed) ** 2 / squares if squares else 1.0
