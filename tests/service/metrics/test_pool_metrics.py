"""The pool as its series show it: by tenant, the rest together, and Jain's index of a minute."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from service.gate.job import GateStats, NodeStats
from service.metrics.pool_metrics import MAX_TENANT_LABELS, SHOWN_NODES, PoolMetrics, labels
from service.tenants.standing import jain
from service.tenants.tenants import Tenant


def test_tenants_beyond_the_first_hundred_share_a_label() -> None:
    names = [f"tenant-{number}" for number in range(MAX_TENANT_LABELS + 50)]
    assert list(labels([*names, *names])) == names[:MAX_TENANT_LABELS]


def test_a_look_at_the_pool_asks_for_no_more_nodes_than_are_shown() -> None:
    tenants = [Tenant(f"tenant-{number}") for number in range(SHOWN_NODES + 1)]
    nodes = PoolMetrics(tenants, 10, CollectorRegistry()).nodes
    assert list(nodes) == [tenant.name for tenant in tenants][:SHOWN_NODES]


def test_a_snapshot_is_shown_by_tenant_and_the_rest_together() -> None:
    registry = CollectorRegistry()
    tenants = [Tenant(f"tenant-{number}") for number in range(MAX_TENANT_LABELS + 2)]
    pool_metrics = PoolMetrics(tenants, 10, registry)

    def shown(name: str, **label: str) -> float | None:
        return registry.get_sample_value(f"fairslate_{name}", label)

    service = {0: 60, 1: 20, MAX_TENANT_LABELS: 5, MAX_TENANT_LABELS + 1: 7}
    nodes = {f"tenant-{n}": NodeStats(-15, 1, 2, 0, 1, tokens) for n, tokens in service.items()}
    pool_metrics.observe(GateStats("dlpm", 0, 0, 0, 0, 0, 0, 0, 0, 1, nodes), {"tenant-0": 500})
    assert shown("tenant_service", tenant="tenant-0") == 60
    assert shown("tenant_service", tenant="other") == 12
    assert shown("tenant_queued_jobs", tenant="other") == 4
    assert shown("tenant_deficit", tenant="tenant-1") == -15
    assert shown("tenant_refills_owed", tenant="tenant-1") == 2
    later = {"tenant-0": 70, "tenant-1": 30}
    nodes = {name: NodeStats(1, 1, 2, 0, 1, tokens) for name, tokens in later.items()}
    delivered = {"tenant-0": 540, "tenant-1": 20}
    pool_metrics.observe(GateStats("dlpm", 0, 0, 0, 0, 0, 0, 0, 0, 2, nodes), delivered)
    assert shown("jain_index", service="charged") == 1.0
    assert shown("jain_index", service="delivered") == pytest.approx(jain([40, 20]))
    pool_metrics.observe(GateStats("dlpm", 0, 0, 0, 0, 0, 8, 9, 0, 3, {}), delivered)
    assert shown("unbilled_cost", why="platform") == 8
    assert shown("unbilled_cost", why="uncharged") == 9
    assert shown("tenant_service", tenant="tenant-0") == 0, "the pool forgot it"
