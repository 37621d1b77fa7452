"""What one answer and one failure move; what a server shows of it is tested in tests/e2e."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from service.gate.errors import DeadlineExceededError, TenantThrottledError
from service.gate.job import GateStats, NodeStats
from service.metrics.metrics import Metrics, Timings
from service.tenants.standing import jain
from service.tenants.tenants import Tenant

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
