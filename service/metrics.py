"""Prometheus series of the API: outcomes and where the time goes. Knows nothing of their causes."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from prometheus_client import Counter, Histogram

from service.errors import error_code

MAX_TENANT_LABELS = 100
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

    def __init__(self, tenant_names: Iterable[str]) -> None:
        self._tenant_labels = frozenset(list(tenant_names)[:MAX_TENANT_LABELS])
        self._requests = Counter(
            "fairslate_requests", "Rank requests by outcome.", ["tenant", "code"]
        )
        self._stages = Histogram(
            "fairslate_stage_milliseconds",
            "Time of answered rank requests by stage.",
            ["stage"],
            buckets=_BUCKETS_MS,
        )
        self._tokens = Counter(
            "fairslate_tokens", "Prompt tokens of answered requests.", ["tenant", "kind"]
        )

    def answered(self, tenant: str, timings: Timings, usage: dict[str, int]) -> None:
        """Counts one answer with its times and tokens."""
        label = self._label(tenant)
        self._requests.labels(label, "ok").inc()
        for stage, milliseconds in asdict(timings).items():
            self._stages.labels(stage).observe(milliseconds)
        for kind, count in usage.items():
            self._tokens.labels(label, kind.removesuffix("_tokens")).inc(count)

    @contextmanager
    def failures_of(self, tenant: str) -> Iterator[None]:
        """Counts what the block raises, by its error code, and lets it pass."""
        try:
            yield
        except BaseException as error:
            code = "client_closed" if isinstance(error, CancelledError) else error_code(error)
            self._requests.labels(self._label(tenant), code).inc()
            raise

    def _label(self, tenant: str) -> str:
        return tenant if tenant in self._tenant_labels else "other"
