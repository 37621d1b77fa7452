"""The gate's mode as alerts see it: one gauge is up, and each turn is counted once."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from service.dispatch.fallback import MODES
from service.metrics.mode_metrics import ModeMetrics


def test_one_mode_is_up_and_a_turn_is_counted_when_it_changes() -> None:
    registry = CollectorRegistry()
    metrics = ModeMetrics(registry)

    def shown(name: str) -> dict[str, float | None]:
        return {mode: registry.get_sample_value(name, {"mode": mode}) for mode in MODES}

    assert shown("fairslate_gate_turns_total") == dict.fromkeys(MODES, 0.0)
    for mode in ("shared", "shared", "local", "local", "shared", "local"):
        metrics.show(mode)
    assert shown("fairslate_gate_mode") == {"shared": 0.0, "local": 1.0, "refusing": 0.0}
    turns = {"shared": 1.0, "local": 2.0, "refusing": 0.0}
    assert shown("fairslate_gate_turns_total") == turns
