"""Compares the clients' services while a simulation runs. Knows no event and no engine."""

from __future__ import annotations

from collections.abc import Sequence

from loadtest.simulation.clients import Client
from loadtest.simulation.measures import Gaps
from loadtest.simulation.totals import Totals
from service.gate.pool import Pool
from service.gate.tree import Node


class Observer:
    """Gaps of charged and of delivered service over windows in which clients are backlogged."""

    def __init__(self, clients: Sequence[Client], pools: Sequence[Pool], totals: Totals) -> None:
        weights = [client.weight for client in clients]
        self.charged, self.delivered = Gaps(weights), Gaps(weights)
        self._accounts = [client.accounts for client in clients]
        self._pools, self._totals = pools, totals

    def observe(self) -> None:
        """Reads the gates; called around whatever changes service or ends a backlog."""
        nodes = [self._nodes(accounts) for accounts in self._accounts]
        backlogged = [any(node.jobs for node in mine) for mine in nodes]
        self._totals.charged = [sum(node.service for node in mine) for mine in nodes]
        self.charged.observe(self._totals.charged, backlogged)
        self.delivered.observe(self._totals.delivered, backlogged)

    def _nodes(self, accounts: Sequence[str]) -> list[Node]:
        known = (pool.nodes.get(name) for pool in self._pools for name in accounts)
        return [node for node in known if node is not None]
