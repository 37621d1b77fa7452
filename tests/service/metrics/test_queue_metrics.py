"""Quantiles of what a tenant's last answers waited."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from service.metrics.queue_metrics import QueueMetrics, quantile

NUMBERS = st.lists(st.integers(0, 9), min_size=1, max_size=30)


@given(NUMBERS, st.sampled_from([0.5, 0.99]))
def test_a_quantile_is_the_least_value_not_below_its_share(values: list[int], share: float) -> None:
    found = quantile(values, share)
    below = Fraction(sum(value <= found for value in values), len(values))
    smaller = Fraction(sum(value < found for value in values), len(values))
    assert smaller < share <= below


def test_each_tenant_is_shown_the_quantiles_of_its_own_last_answers() -> None:
    registry = CollectorRegistry()
    metrics = QueueMetrics(registry)

    def shown(tenant: str, share: str) -> float | None:
        labels = {"tenant": tenant, "quantile": share}
        return registry.get_sample_value("fairslate_tenant_queue_milliseconds", labels)

    metrics.add("ada", 9_999.0)
    for waited_ms in range(512):
        metrics.add("ada", float(waited_ms))
    metrics.add("bob", 7.0)
    assert shown("ada", "0.5") is None
    metrics.show()
    assert (shown("ada", "0.5"), shown("ada", "0.99")) == (255.0, 506.0)
    assert shown("bob", "0.5") == shown("bob", "0.99") == 7.0
