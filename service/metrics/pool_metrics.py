"""Prometheus series of the pool: who got how much, and who owes. Knows nothing of requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import REGISTRY, CollectorRegistry

from service.gate.job import GateStats
from service.metrics import series
from service.tenants.standing import FORGOTTEN, History, Standing, standings
from service.tenants.tenants import Tenant

MAX_TENANT_LABELS = 100
SHOWN_NODES = 200  # in the order of the file; each costs every look at the pool a read in Redis
OTHER_TENANTS = "other"
SERVICES = {"charged": "service", "delivered": "delivered"}  # as labelled: as in a standing
_OF_TENANTS = {
    "service": "Charged tokens less refunds since the gate knows the tenant.",
    "deficit": "DLPM counter in tokens; of a tenant's nodes the lowest.",
    "refills_owed": "Refills until that counter is positive; 0 while it is.",
    "queued_jobs": "Jobs that wait for an engine.",
    "leased_jobs": "Jobs that an engine holds.",
}


class PoolMetrics:
    """Gauges by tenant, "other" beyond the first hundred, and Jain's indices of the last minute."""

    def __init__(
        self, tenants: Iterable[Tenant], refill: int, registry: CollectorRegistry = REGISTRY
    ) -> None:
        listed = list(tenants)
        known = labels(tenant.name for tenant in listed)
        self._owners = {
            node: known.get(tenant.name, OTHER_TENANTS)
            for tenant in listed
            for node in tenant.nodes
        }
        self._refill = refill
        self._history = History()
        self._shown: set[str] = set()
        self._gauges = {
            name: series.gauge(registry, f"tenant_{name}", text, "tenant")
            for name, text in _OF_TENANTS.items()
        }
        self._jain = series.gauge(
            registry,
            "jain_index",
            "Over a service by weight of the last minute's backlogged tenants.",
            "service",
        )

        self._unbilled = series.gauge(
            registry,
            "unbilled_cost",
            "Tokens that no tenant paid: borne by the platform, or used above what was reserved.",
            "why",
        )

    @property
    def nodes(self) -> Sequence[str]:
        """Ids of the tenants' nodes that a snapshot should have."""
        return list(self._owners)[:SHOWN_NODES]

    def observe(self, stats: GateStats, delivered: Mapping[str, int]) -> None:
        """Shows one snapshot; to be called about once a second.

        delivered: tokens by tenant that this process answered with so far, of the whole pool's.
        """
        found = standings(stats, self._owners, self._refill, delivered)
        for tenant in self._shown - found.keys():
            self._show(tenant, FORGOTTEN)
        for tenant, standing in found.items():
            self._show(tenant, standing)
        self._shown = set(found)
        self._unbilled.labels("platform").set(stats.platform)
        self._unbilled.labels("uncharged").set(stats.uncharged)
        self._history.add(
            stats.now_ms, {name: one for name, one in found.items() if name != OTHER_TENANTS}
        )
        for service, field in SERVICES.items():
            self._jain.labels(service).set(self._history.jain(field))

    def _show(self, tenant: str, standing: Standing) -> None:
        for name, gauge in self._gauges.items():
            gauge.labels(tenant).set(getattr(standing, name))


def labels(tenant_names: Iterable[str]) -> dict[str, str]:
    """Label of each tenant: its own name for the first hundred."""
    own = dict.fromkeys(tenant_names)
    return {name: name for name in list(own)[:MAX_TENANT_LABELS]}
