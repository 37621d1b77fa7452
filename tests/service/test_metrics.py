"""Quantiles and labels of the series; what a server shows of them is tested in tests/e2e."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from service.gate.errors import DeadlineExceededError, TenantThrottledError
from service.gate.job import GateStats, NodeStats
from service.metrics import Metrics, Timings, quantile
from service.pool_metrics import MAX_TENANT_LABELS, SHOWN_NODES, PoolMetrics, labels
from service.standing import jain
from service.tenants import Tenant

SERIES_OF_A_TENANT = {
    "tenant_service",
    "tenant_deficit",
    "tenant_refills_owed",
    "tenant_queued_jobs",
    "tenant_leased_jobs",
    "tenant_queue_milliseconds",
    "tenant_overtakes_total",
    "requests_total",
    "tokens_total",
}
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


def test_an_answer_counts_its_overtakes_and_what_was_delivered_cached_or_not() -> None:
    registry = CollectorRegistry()
    metrics = Metrics([Tenant("ada"), Tenant("bob")], 10, registry)

    def shown(name: str, **label: str) -> float | None:
        return registry.get_sample_value(f"fairslate_{name}", label)

    def look(at_ms: int, charged: dict[str, int]) -> None:
        nodes = {name: NodeStats(1, 1, 2, 0, 1, cost) for name, cost in charged.items()}
        metrics.observe(GateStats("dlpm", 0, 0, 0, 0, 0, 0, 0, 0, at_ms, nodes))

    def answer(tenant: str, context: int, cached: int, candidates: int, overtaken: int) -> None:
        usage = {
            "context_tokens": context,
            "cached_tokens": cached,
            "candidate_tokens": candidates,
            "extend_tokens": context - cached + candidates,
            "reused_candidates": 0,
        }
        metrics.answered(tenant, Timings(7.0, 1.0, 1.0, 9.0), usage, 1, overtaken)

    look(0, {"ada": 0, "bob": 0})
    answer("ada", context=200, cached=200, candidates=100, overtaken=0)
    answer("bob", context=60, cached=0, candidates=40, overtaken=3)
    answer("bob", context=0, cached=0, candidates=0, overtaken=2)
    look(1, {"ada": 100, "bob": 100})
    assert shown("tenant_overtakes_total", tenant="bob") == 5
    assert shown("tenant_overtakes_total", tenant="ada") == 0
    assert shown("jain_index", service="charged") == 1.0
    assert shown("jain_index", service="delivered") == pytest.approx(jain([300, 100]))


def test_refusals_and_missed_deadlines_stand_beside_all_else_that_a_tenant_is_shown() -> None:
    registry = CollectorRegistry()
    metrics = Metrics([Tenant("ada")], 10, registry)
    usage = dict.fromkeys(
        ("context_tokens", "cached_tokens", "candidate_tokens", "extend_tokens"), 1
    )
    metrics.answered("ada", Timings(7.0, 1.0, 1.0, 9.0), usage | {"reused_candidates": 0}, 1, 0)
    for error in (TenantThrottledError("much", retry_after_ms=1), DeadlineExceededError("late")):
        with pytest.raises(type(error)), metrics.failures_of("ada"):
            raise error
    metrics.observe(
        GateStats("dlpm", 0, 0, 0, 0, 0, 0, 0, 0, 1, {"ada": NodeStats(1, 1, 2, 0, 1, 5)})
    )
    samples = [one for family in registry.collect() for one in family.samples]
    of_ada = [one for one in samples if one.labels.get("tenant") == "ada"]
    assert {one.name.removeprefix("fairslate_") for one in of_ada} >= SERIES_OF_A_TENANT
    codes = {one.labels["code"] for one in of_ada if one.name == "fairslate_requests_total"}
    assert codes == {"ok", "tenant_throttled", "deadline_exceeded"}
