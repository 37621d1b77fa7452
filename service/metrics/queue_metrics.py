"""Prometheus series of how long each tenant's jobs waited in the queue. Knows nothing of queues."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable

from prometheus_client import REGISTRY, CollectorRegistry

from service.metrics import series

QUANTILES = (0.5, 0.99)
_SAMPLES = 512
_TEXT = f"Time in the queue of a tenant's last {_SAMPLES} answers."


class QueueMetrics:
    """Quantiles by tenant of its last answers."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        name = "tenant_queue_milliseconds"
        self._gauge = series.gauge(registry, name, _TEXT, "tenant", "quantile")
        self._waits: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_SAMPLES))

    def add(self, tenant: str, waited_ms: float) -> None:
        """Takes in what one answer waited; `show` does the sums."""
        self._waits[tenant].append(waited_ms)

    def show(self) -> None:
        """To be called about once a second."""
        for tenant, waits in self._waits.items():
            for share in QUANTILES:
                self._gauge.labels(tenant, str(share)).set(quantile(waits, share))


def quantile(values: Iterable[float], share: float) -> float:
    """The least value that at least `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
