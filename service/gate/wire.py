"""Turns jobs into script arguments and script answers into dataclasses. Knows no keys, no Redis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.gate.job import (
    Claim,
    Claimed,
    GateStats,
    Job,
    Outcome,
    Reaped,
    Reply,
    Settlement,
    TenantStats,
)

Argument = str | bytes | int


def submit_arguments(job: Job) -> list[Argument]:
    """Arguments of `submit`; the chain travels as one string of hashes of equal width."""
    return [
        job.job_id,
        job.tenant,
        job.weight,
        job.deadline_ms,
        job.context_id,
        "".join(job.context_hashes),
        len(job.context_id),
        job.block_size,
        job.context_tokens,
        job.candidate_tokens,
        job.reply_to,
        job.payload,
    ]


def claim_arguments(
    worker: str,
    token_budget: int,
    max_jobs: int,
    inserted: Sequence[str],
    evicted: Sequence[str],
) -> list[Argument]:
    """Arguments of `claim`."""
    return [worker, token_budget, max_jobs, len(inserted), *inserted, *evicted]


def settle_arguments(settlements: Sequence[Settlement]) -> list[Argument]:
    """Arguments of `settle`, five per job."""
    rows = [
        (item.job_id, item.epoch, item.extend_tokens, item.outcome.value, item.result)
        for item in settlements
    ]
    return [cell for row in rows for cell in row]


def renew_arguments(worker: str, held: Sequence[Claimed]) -> list[Argument]:
    """Arguments of `renew`, two per job after the worker."""
    return [worker, *(cell for job in held for cell in (job.job_id, job.epoch))]


def read_claim(answer: Sequence[Any]) -> Claim:
    """Answer of `claim`."""
    now, expired, *rows = answer
    jobs = tuple(
        Claimed(job_id.decode(), epoch, payload, reply_to.decode(), charged, cached, queue_ms)
        for job_id, epoch, payload, reply_to, charged, cached, queue_ms in rows
    )
    return Claim(jobs, expired, now)


def read_reaped(answer: Sequence[int]) -> Reaped:
    """Answer of `reap`."""
    now, requeued, lost, expired, paused = answer
    return Reaped(requeued, lost, expired, paused, now)


def read_reply(raw: bytes) -> Reply:
    """One element of a reply list."""
    job_id, outcome, result = raw.split(b"\0", 2)
    return Reply(job_id.decode(), Outcome(outcome.decode()), result)


def read_stats(answer: Sequence[Any]) -> GateStats:
    """Answer of `stats`."""
    now, refill_round, queued_jobs, queued_tokens, leased_jobs, tenants, workers = answer
    return GateStats(
        queued_jobs=queued_jobs,
        queued_tokens=queued_tokens,
        leased_jobs=leased_jobs,
        round=refill_round,
        now_ms=now,
        tenants={name.decode(): TenantStats(*standing) for name, *standing in tenants},
        workers={name.decode(): seen_ms for name, seen_ms in workers},
    )
