"""Shows and logs by which policy the pool serves. Knows nobody who switches it."""

from __future__ import annotations

import logging

from prometheus_client import REGISTRY, CollectorRegistry

from service.gate.settings import POLICIES
from service.metrics import series

logger = logging.getLogger("fairslate.policy")


class PolicyMetrics:
    """configured: that of the settings, which a pool has until an operator switches it."""

    def __init__(self, configured: str, registry: CollectorRegistry = REGISTRY) -> None:
        self._gauge = series.gauge(
            registry, "gate_policy", "1 for the policy by which the pool serves.", "policy"
        )
        self._shown = configured

    def show(self, policy: str) -> None:
        """What a look at the pool found; a policy other than before is logged once."""
        for name in POLICIES:
            self._gauge.labels(name).set(name == policy)
        if policy != self._shown:
            logger.warning(
                "the pool serves by %s, not by %s: /admin/policy switched it, and Redis keeps that",
                policy,
                self._shown,
            )
            self._shown = policy
