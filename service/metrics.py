"""Prometheus series of the API: outcomes and where the time goes. Knows nothing of their causes."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from service.errors import error_code
from service.fallback import MODES
from service.gate.job import GateStats
from service.pool_metrics import OTHER_TENANTS, PoolMetrics, labels
from service.tenants import Tenant

QUANTILES = (0.5, 0.99)
_QUEUE_SAMPLES = 512
_BUCKETS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000)


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


class Metrics:
    """Tenants beyond the first hundred share the label "other"; codes are a closed set."""

    def __init__(
        self, tenants: Sequence[Tenant], refill: int, registry: CollectorRegistry = REGISTRY
    ) -> None:
        self._labels = labels(tenant.name for tenant in tenants)
        self._pool = PoolMetrics(tenants, refill, registry)
        self._waits: defaultdict[str, deque[float]] = defaultdict(
            lambda: deque(maxlen=_QUEUE_SAMPLES)
        )
        self._delivered: defaultdict[str, int] = defaultdict(int)  # tokens, cached or not
        self._children: dict[tuple[str, str], Counter] = {}  # each look-up of one takes a lock
        self._requests = Counter(
            "fairslate_requests",
            "Requests by outcome.",
            ["tenant", "code"],
            registry=registry,
        )
        self._stages = Histogram(
            "fairslate_stage_milliseconds",
            "Time of answered rank requests by stage.",
            ["stage"],
            buckets=_BUCKETS_MS,
            registry=registry,
        )
        self._reason_stages = Histogram(
            "fairslate_reason_milliseconds",
            "Time of answered requests for reasons by stage.",
            ["stage"],
            buckets=_BUCKETS_MS,
            registry=registry,
        )
        self._tokens = Counter(
            "fairslate_tokens",
            "Tokens of answered requests, of prompts but for the kind output.",
            ["tenant", "kind"],
            registry=registry,
        )
        self._candidates = Counter(
            "fairslate_candidates",
            "Candidates of answered requests, by who knew the score.",
            ["tenant", "source"],
            registry=registry,
        )
        self._overtakes = Counter(
            "fairslate_tenant_overtakes",
            "Times that a later job with a warm context went before one of an answered request.",
            ["tenant"],
            registry=registry,
        )
        self._queue = Gauge(
            "fairslate_tenant_queue_milliseconds",
            f"Time in the queue of a tenant's last {_QUEUE_SAMPLES} answers.",
            ["tenant", "quantile"],
            registry=registry,
            multiprocess_mode="livemostrecent",
        )

        self._mode = Gauge(
            "fairslate_gate_mode",
            "1 for where slates go now: the shared Redis, this server's own, or nowhere.",
            ["mode"],
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self._turns = Counter(
            "fairslate_gate_turns",
            "Times that the gate's mode changed to this one.",
            ["mode"],
            registry=registry,
        )
        for mode in MODES:
            self._turns.labels(mode)  # a series that an alert can watch before the first turn
        self._shown_mode = ""

    def show_mode(self, mode: str) -> None:
        """Where the gate is; to be called often."""
        if mode != self._shown_mode:
            for name in MODES:
                self._mode.labels(name).set(name == mode)
            if self._shown_mode:
                self._turns.labels(mode).inc()
            self._shown_mode = mode

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
        self._overtakes.labels(label).inc(overtaken)
        reused = usage["reused_candidates"]
        self._candidates.labels(label, "engine").inc(candidates - reused)
        self._candidates.labels(label, "score_cache").inc(reused)
        for stage, milliseconds in asdict(timings).items():
            self._stages.labels(stage).observe(milliseconds)
        self._waits[label].append(timings.queue)

    def prewarmed(self, tenant: str, usage: dict[str, int]) -> None:
        """Counts one context that was computed ahead; nobody waits for it, so no times."""
        self._count(self._label(tenant), "prewarmed", usage)

    def reasoned(
        self, tenant: str, timings: Timings, usage: dict[str, int], overtaken: int
    ) -> None:
        """Counts one answered request for reasons with its times, tokens and overtakes."""
        label = self._label(tenant)
        self._count(label, "reasoned", usage)
        self._overtakes.labels(label).inc(overtaken)
        for stage, milliseconds in asdict(timings).items():
            self._reason_stages.labels(stage).observe(milliseconds)
        self._waits[label].append(timings.queue)

    @property
    def nodes(self) -> Sequence[str]:
        """Ids of the gate's nodes that a snapshot should have."""
        return self._pool.nodes

    def observe(self, stats: GateStats) -> None:
        """Shows a snapshot of the pool, and the queue times so far."""
        self._pool.observe(stats, self._delivered)
        for label, waits in self._waits.items():
            for share in QUANTILES:
                self._queue.labels(label, str(share)).set(quantile(waits, share))

    @contextmanager
    def failures_of(self, tenant: str) -> Iterator[None]:
        """Counts what the block raises, by its error code, and lets it pass."""
        try:
            yield
        except BaseException as error:
            self._outcomes(self._label(tenant), error_code(error)).inc()
            raise

    def _count(self, label: str, code: str, usage: dict[str, int]) -> None:
        self._outcomes(label, code).inc()
        delivered = ("context_tokens", "candidate_tokens", "output_tokens")
        self._delivered[label] += sum(usage.get(name, 0) for name in delivered)
        for name, count in usage.items():
            if (kind := name.removesuffix("_tokens")) != name:
                self._tokens.labels(label, kind).inc(count)

    def _outcomes(self, label: str, code: str) -> Counter:
        key = (label, code)
        if key not in self._children:
            self._children[key] = self._requests.labels(label, code)
        return self._children[key]

    def _label(self, tenant: str) -> str:
        return self._labels.get(tenant, OTHER_TENANTS)


def quantile(values: Iterable[float], share: float) -> float:
    """The least value that at least `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
