"""Prometheus series of the API: outcomes and where the time goes. Knows nothing of their causes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from prometheus_client import REGISTRY, CollectorRegistry, Counter

from service.base.errors import error_code
from service.gate.job import GateStats
from service.metrics import series
from service.metrics.pool_metrics import OTHER_TENANTS, PoolMetrics, labels
from service.metrics.queue_metrics import QueueMetrics
from service.tenants.tenants import Tenant


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds of one request: `total` also holds parsing, waiting for replies, sorting."""

    queue: float
    tokenize: float
    score: float
    total: float

    def rounded(self) -> dict[str, float]:
        """Microsecond precision, for answers."""
        return {stage: round(value, 3) for stage, value in asdict(self).items()}


_COUNTERS: dict[str, tuple[str, ...]] = {  # name, text, labels
    "requests": ("Requests by outcome.", "tenant", "code"),
    "tokens": (
        "Tokens of answered requests, of prompts but for the kind output.",
        "tenant",
        "kind",
    ),
    "candidates": ("Candidates of answered requests, by who knew the score.", "tenant", "source"),
    "tenant_overtakes": (
        "Times that a later job with a warm context went before one of an answered request.",
        "tenant",
    ),
}
_STAGES = {  # of "<name>_milliseconds"
    "stage": "Time of answered rank requests by stage.",
    "reason": "Time of answered requests for reasons by stage.",
}


class Metrics:
    """Tenants beyond the first hundred share the label "other"; codes are a closed set."""

    def __init__(
        self, tenants: Sequence[Tenant], refill: int, registry: CollectorRegistry = REGISTRY
    ) -> None:
        self._labels = labels(tenant.name for tenant in tenants)
        self._pool = PoolMetrics(tenants, refill, registry)
        self._queue = QueueMetrics(registry)
        self._counters = {
            name: series.counter(registry, name, *table) for name, table in _COUNTERS.items()
        }
        self._stages = {
            name: series.milliseconds(registry, f"{name}_milliseconds", text, "stage")
            for name, text in _STAGES.items()
        }
        self._delivered: defaultdict[str, int] = defaultdict(int)  # tokens, cached or not
        self._outcomes: dict[tuple[str, str], Counter] = {}  # each look-up of one takes a lock

    def answered(
        self,
        tenant: str,
        timings: Timings,
        usage: dict[str, int],
        candidates: int,
        overtaken: int,
    ) -> None:
        """Counts one ranked slate with its times, tokens, candidates and overtakes of its jobs."""
        label = self._label(tenant)
        self._count(label, "ok", usage)
        reused = usage["reused_candidates"]
        self._counters["candidates"].labels(label, "engine").inc(candidates - reused)
        self._counters["candidates"].labels(label, "score_cache").inc(reused)
        self._time(label, "stage", timings, overtaken)

    def prewarmed(self, tenant: str, usage: dict[str, int]) -> None:
        """Counts one context that was computed ahead; nobody waits for it, so no times."""
        self._count(self._label(tenant), "prewarmed", usage)

    def reasoned(
        self, tenant: str, timings: Timings, usage: dict[str, int], overtaken: int
    ) -> None:
        """Counts one answered request for reasons with its times, tokens and overtakes."""
        label = self._label(tenant)
        self._count(label, "reasoned", usage)
        self._time(label, "reason", timings, overtaken)

    @property
    def nodes(self) -> Sequence[str]:
        """Ids of the gate's nodes that a snapshot should have."""
        return self._pool.nodes

    def observe(self, stats: GateStats) -> None:
        """Shows a snapshot of the pool, and the queue times so far."""
        self._pool.observe(stats, self._delivered)
        self._queue.show()

    @contextmanager
    def failures_of(self, tenant: str) -> Iterator[None]:
        """Counts what the block raises, by its error code, and lets it pass."""
        try:
            yield
        except BaseException as error:
            self._outcome(self._label(tenant), error_code(error)).inc()
            raise

    def _count(self, label: str, code: str, usage: dict[str, int]) -> None:
        self._outcome(label, code).inc()
        delivered = ("context_tokens", "candidate_tokens", "output_tokens")
        self._delivered[label] += sum(usage.get(name, 0) for name in delivered)
        for name, count in usage.items():
            if (kind := name.removesuffix("_tokens")) != name:
                self._counters["tokens"].labels(label, kind).inc(count)

    def _time(self, label: str, series_of: str, timings: Timings, overtaken: int) -> None:
        for stage, milliseconds in asdict(timings).items():
            self._stages[series_of].labels(stage).observe(milliseconds)
        self._queue.add(label, timings.queue)
        self._counters["tenant_overtakes"].labels(label).inc(overtaken)

    def _outcome(self, label: str, code: str) -> Counter:
        key = (label, code)
        if key not in self._outcomes:
            self._outcomes[key] = self._counters["requests"].labels(label, code)
        return self._outcomes[key]

    def _label(self, tenant: str) -> str:
        return self._labels.get(tenant, OTHER_TENANTS)
