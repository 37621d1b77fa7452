"""Turns what the gate answers to a submit into errors that say what to do. Knows no Redis."""

from __future__ import annotations

from service.gate.errors import (
    DeadlineExceededError,
    LevelConflictError,
    PoolFullError,
    TenantThrottledError,
)
from service.gate.job import Job, Verdict
from service.gate.settings import GateSettings


def refuse(verdict: Verdict, job: Job, settings: GateSettings) -> None:
    """Raises unless the job is queued or was known."""
    retry = verdict.retry_after_ms
    if verdict.answer == "pool_full":
        raise PoolFullError("the queue is full; retry later", retry_after_ms=retry)
    if verdict.answer == "tenant_full":
        raise TenantThrottledError(
            f"tenant {job.tenant!r} has its limit of {settings.max_tenant_jobs} jobs or "
            f"{settings.max_tenant_tokens} tokens queued; wait for answers before sending more",
            retry_after_ms=retry,
        )
    if verdict.answer == "tenant_busy":
        raise TenantThrottledError(
            f"tenant {job.tenant!r} has its limit of {settings.max_tenant_in_flight} jobs in "
            "flight; wait for answers before sending more",
            retry_after_ms=retry,
        )
    if verdict.answer == "deadline":
        raise DeadlineExceededError(
            "the deadline passed before the job was queued; allow more time", param="deadline_ms"
        )
    if verdict.answer == "level_conflict":
        raise LevelConflictError(
            f"jobs still stand at another depth than {job.leaf!r}, as a tenants file had it; "
            "retry when they are answered, and give all servers the same file",
            retry_after_ms=settings.retry_after_ms,
        )
    assert verdict.answer in ("queued", "known"), verdict
