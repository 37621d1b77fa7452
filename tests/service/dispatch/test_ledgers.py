"""What two Redis servers say of the tenants is shown as one pool."""

from __future__ import annotations

from service.dispatch.ledgers import FRESH_SECONDS, Ledgers
from service.gate.job import GateStats, NodeStats


def snapshot(now_ms: int, worker: str, **services: int) -> GateStats:
    nodes = {
        name: NodeStats(service // 2, 3, 1, 10, 2, service) for name, service in services.items()
    }
    platform, uncharged = now_ms // 100, now_ms // 10
    return GateStats("dlpm", 0, 0, 0, 0, 0, platform, uncharged, 0, now_ms, nodes, {worker: 5})


def test_sums_are_of_both_sides_and_the_rest_is_of_the_side_in_use() -> None:
    shown: list[GateStats] = []
    in_use = [0]
    ledgers = Ledgers(shown.append, lambda: in_use[0])
    shared, local = ledgers.of(0), ledgers.of(1)
    local(snapshot(800, "near", ada=1))
    shared(snapshot(1_000, "far", ada=99, bob=8))
    in_use[0] = 1
    local(snapshot(900, "near", ada=40, cleo=6))
    shared(snapshot(1_100, "far", ada=100, bob=8))
    in_use[0] = 0
    shared(snapshot(2_000, "far", ada=120))
    assert [stats.now_ms for stats in shown] == [1_000, 1_000, 2_000]
    assert [stats.platform for stats in shown] == [10 + 8, 9 + 10, 20 + 9]
    assert [stats.uncharged for stats in shown] == [100 + 80, 90 + 100, 200 + 90]
    assert [sorted(stats.workers) for stats in shown] == [["far", "near"]] * 3
    services = [{name: node.service for name, node in stats.nodes.items()} for stats in shown]
    assert services == [
        {"ada": 100, "bob": 8},
        {"ada": 139, "bob": 8, "cleo": 6},
        {"ada": 160, "cleo": 6},
    ]
    assert shown[1].nodes["ada"] == NodeStats(20, 3, 2, 20, 4, 139)
    assert shown[1].nodes["bob"] == NodeStats(4, 3, 1, 10, 2, 8)


def test_of_a_side_that_is_away_only_what_it_served_is_known() -> None:
    shown: list[GateStats] = []
    now, in_use = [0.0], [0]
    ledgers = Ledgers(shown.append, lambda: in_use[0], lambda: now[0])
    shared, local = ledgers.of(0), ledgers.of(1)
    shared(snapshot(1_000, "far", ada=100, bob=8))
    in_use[0], now[0] = 1, FRESH_SECONDS
    local(snapshot(900, "near", ada=40))
    assert shown[-1].nodes["ada"] == NodeStats(20, 3, 1, 10, 2, 140)
    assert shown[-1].nodes["bob"] == NodeStats(4, 3, 0, 0, 0, 8)
