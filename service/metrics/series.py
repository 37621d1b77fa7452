"""Makes Prometheus series as all of this service are. Knows nothing of what they count."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

PREFIX = "fairslate_"
BUCKETS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000)


def counter(registry: CollectorRegistry, name: str, text: str, *labels: str) -> Counter:
    """Only ever grows; shown as `name` with "_total" behind it."""
    return Counter(PREFIX + name, text, labels, registry=registry)


def gauge(registry: CollectorRegistry, name: str, text: str, *labels: str) -> Gauge:
    """Shows what was set last: of two processes that set it, the last word is the right one."""
    return Gauge(PREFIX + name, text, labels, registry=registry, multiprocess_mode="livemostrecent")


def milliseconds(registry: CollectorRegistry, name: str, text: str, *labels: str) -> Histogram:
    """Of durations between one millisecond and half a minute."""
    return Histogram(PREFIX + name, text, labels, buckets=BUCKETS_MS, registry=registry)
