"""Which policy a pool serves by can be seen, and one that is not the settings' is told once."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from service.gate.settings import POLICIES
from service.metrics.policy_metrics import PolicyMetrics


def test_the_policy_in_force_is_up_and_a_change_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = CollectorRegistry()
    metrics = PolicyMetrics("dlpm", registry)
    for policy in ("dlpm", "fcfs", "fcfs"):
        metrics.show(policy)
    shown = {
        name: registry.get_sample_value("fairslate_gate_policy", {"policy": name})
        for name in POLICIES
    }
    assert shown == {name: float(name == "fcfs") for name in POLICIES}
    [told] = [record.getMessage() for record in caplog.records]
    assert told.startswith("the pool serves by fcfs, not by dlpm")
    metrics.show("dlpm")
    assert caplog.records[-1].getMessage().startswith("the pool serves by dlpm, not by fcfs")
