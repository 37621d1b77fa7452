"""What the pool promises after every event of a random history: counters, charges, no idling."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from service.gate.job import Settlement
from service.gate.settings import ATTRIBUTIONS
from service.gate.tree import Node
from tests.service.gate.histories import SMALL, WORKERS, History
from tests.service.gate.jobs import BLOCK_SIZE, BLOCKS

EVENTS = 3_000
LARGEST_COST = BLOCKS * BLOCK_SIZE + 300 + 2 * 20


class Counted(History):
    """Checks the counters of every node after every event."""

    weights = History.weights | {"configure": 0}

    def __init__(self, seed: int, attribution: str) -> None:
        parts = 1 + 2 * (seed % 2)
        super().__init__(seed, replace(SMALL, attribution=attribution, quantum_parts=parts))
        self.granted: Counter[str] = Counter()  # by refills, as of the last event
        self.service: Counter[str] = Counter()
        self.refunds: Counter[str] = Counter()  # since the last refill
        self.refills = 0

    def apply(self, verb: str, *arguments: Any, **events: Any) -> Any:
        answer = super().apply(verb, *arguments, **events)
        for name, node in self.pool.nodes.items():
            if name:
                self.check_counter(name, node)
        return answer

    def check_counter(self, name: str, node: Node) -> None:
        """-U' < q <= w Q + refunds since the last refill; what was granted is whole refills."""
        granted, quantum = node.deficit + node.service, node.weight * self.settings.quantum
        refund = max(0, self.service[name] - node.service)
        refilled = granted > self.granted[name]
        assert granted >= self.granted[name]
        assert granted % (node.weight * self.settings.refill) == 0
        self.refunds[name] = refund + (0 if refilled else self.refunds[name])
        self.refills += refilled
        self.granted[name], self.service[name] = granted, node.service
        assert -LARGEST_COST < node.deficit <= quantum + self.refunds[name]


class Audited(History):
    """Adds up what engines reported, and looks for workers that idle beside work."""

    def __init__(self, seed: int, attribution: str) -> None:
        super().__init__(seed, replace(SMALL, attribution=attribution))
        self.charged: dict[int, int] = {}  # by epoch
        self.used: Counter[str] = Counter()  # by leaf

    def apply(self, verb: str, *arguments: Any, **events: Any) -> Any:
        answer = super().apply(verb, *arguments, **events)
        if verb == "settle":
            for item, taken in zip(arguments[1], answer, strict=True):
                if taken:
                    leaf = self.jobs[item.job_id].leaf
                    self.used[leaf] += min(self.charged[item.epoch], self.cost(item))
        if verb == "claim":
            self.charged |= {claimed.epoch: claimed.charged for claimed in answer.jobs}
            if arguments[2] and not events["strict"] and not answer.jobs:
                self.check_nothing_could_run(arguments[0])
        return answer

    def cost(self, item: Settlement) -> int:
        return max(1, item.extend_tokens + self.settings.output_weight * item.output_tokens)

    def check_nothing_could_run(self, worker: str) -> None:
        """What still waits, waits for workers that live and have nothing to do."""
        pool, fleet = self.pool, self.pool.fleet
        assert worker not in pool.queues.names()
        assert all(name in fleet.workers and not fleet.busy[name] for name in pool.queues.names())

    def finish(self) -> None:
        """Gives back every lease and cancels what waits."""
        for worker in WORKERS:
            self.apply("leave", worker)
        for job_id in [*self.pool.entries]:
            self.apply("cancel", job_id)


@pytest.mark.parametrize("attribution", ATTRIBUTIONS)
@pytest.mark.parametrize("seed", range(4))
def test_counters_stay_within_their_range(seed: int, attribution: str) -> None:
    assert counted(seed, attribution, EVENTS).refills > EVENTS // 100


@pytest.mark.long
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("seed", range(40, 44))
@pytest.mark.parametrize("attribution", ATTRIBUTIONS)
def test_counters_stay_within_their_range_over_a_million_events(
    seed: int, attribution: str
) -> None:
    assert counted(seed, attribution, 84_000).refills > 840


def counted(seed: int, attribution: str, events: int) -> Counted:
    history = Counted(seed, attribution)
    for _ in range(events):
        history.step()
    return history


@pytest.mark.parametrize("attribution", ATTRIBUTIONS)
@pytest.mark.parametrize("seed", range(4))
def test_charges_less_refunds_are_what_engines_reported_and_nobody_idles_beside_work(
    seed: int, attribution: str
) -> None:
    history = Audited(seed, attribution)
    for _ in range(EVENTS):
        history.step()
    history.finish()
    pool, used = history.pool, history.used
    leaves = {name: node.service for name, node in pool.nodes.items() if node.holds_jobs}
    assert pool.nodes[""].service == used.total() > 100 * SMALL.quantum
    assert sum(leaves.values()) + pool.ledger.platform == used.total()
    if attribution == "first":
        assert leaves == {leaf: used[leaf] for leaf in leaves}
    assert (pool.ledger.platform > 0) == (attribution == "platform")
