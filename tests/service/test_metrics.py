"""Quantiles and labels of the series; what a server shows of them is tested in tests/e2e."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from service.gate.job import GateStats, NodeStats
from service.metrics import quantile
from service.pool_metrics import MAX_TENANT_LABELS, SHOWN_NODES, PoolMetrics, labels
from service.tenants import Tenant

NUMBERS = st.lists(st.integers(0, 9), min_size=1, max_size=30)


@given(NUMBERS, st.sampled_from([0.5, 0.99]))
def test_a_quantile_is_the_least_value_not_below_its_share(values: list[int], share: float) -> None:
    found = quantile(values, share)
    below = Fraction(sum(value <= found for value in values), len(values))
    smaller = Fraction(sum(value < found for value in values), len(values))
    assert smaller < share <= below


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
    pool_metrics.observe(GateStats("dlpm", 0, 0, 0, 0, 0, 0, 0, 0, 1, nodes))
    assert shown("tenant_service", tenant="tenant-0") == 60
    assert shown("tenant_service", tenant="other") == 12
    assert shown("tenant_queued_jobs", tenant="other") == 4
    assert shown("tenant_deficit", tenant="tenant-1") == -15
    assert shown("tenant_refills_owed", tenant="tenant-1") == 2
    later = {"tenant-0": 70, "tenant-1": 30}
    nodes = {name: NodeStats(1, 1, 2, 0, 1, tokens) for name, tokens in later.items()}
    pool_metrics.observe(GateStats("dlpm", 0, 0, 0, 0, 0, 0, 0, 0, 2, nodes))
    assert shown("jain_index") == 1.0
