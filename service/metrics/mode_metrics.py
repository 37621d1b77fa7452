"""Prometheus series of where slates go, and of how often that changed. Knows no gate."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry

from service.dispatch.fallback import MODES
from service.metrics import series

_MODE = "1 for where slates go now: the shared Redis, this server's own, or nowhere."
_TURNS = "Times that the gate's mode changed to this one."


class ModeMetrics:
    """Knows no mode until the first is shown."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._mode = series.gauge(registry, "gate_mode", _MODE, "mode")
        self._turns = series.counter(registry, "gate_turns", _TURNS, "mode")
        for mode in MODES:
            self._turns.labels(mode)  # a series that an alert can watch before the first turn
        self._shown = ""

    def show(self, mode: str) -> None:
        """Where the gate is; to be called often."""
        if mode != self._shown:
            for name in MODES:
                self._mode.labels(name).set(name == mode)
            if self._shown:
                self._turns.labels(mode).inc()
            self._shown = mode
