"""Turns jobs into script arguments and script answers into dataclasses. Knows no keys, no Redis."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from service.gate import policy
from service.gate.job import (
    Claim,
    Claimed,
    Explanation,
    GateStats,
    Job,
    LevelStanding,
    NodeStats,
    Outcome,
    Reaped,
    Reply,
    Settlement,
    Verdict,
)
from service.gate.settings import GateSettings

Argument = str | bytes | int


def submit_arguments(job: Job) -> list[Argument]:
    """Arguments of `submit` for one job, facts and payload; those of several may follow each other.

    The chain travels as one string of hashes of equal width.
    """
    facts = {
        "id": job.job_id,
        "leaf": job.leaf,
        "tenant": job.tenant_id,
        "weights": [level.weight for level in job.path],
        "context": job.context_id,
        "chain": "".join(job.context_hashes),
        "width": len(job.context_id),
        "blocks": len(job.context_hashes),
        "block_size": job.block_size,
        "context_tokens": job.context_tokens,
        "candidate_tokens": job.candidate_tokens,
        "output_tokens": job.output_tokens,
        "tokens": job.tokens,
        "deadline_ms": job.deadline_ms,
        "reply_to": job.reply_to,
    }
    return [json.dumps(facts, separators=(",", ":")), job.payload]


def claim_arguments(
    worker: str,
    token_budget: int,
    max_jobs: int,
    inserted: Sequence[str] = (),
    evicted: Sequence[str] = (),
    *,
    strict: bool = False,
    acknowledged: int | None = None,
    instance: str = "",
) -> list[Argument]:
    """Arguments of `claim`; `acknowledged` is the last epoch that arrived.

    `instance` tells one worker from another of its name; an empty one is nobody's rival.
    """
    heard = -1 if acknowledged is None else acknowledged
    return [
        worker,
        token_budget,
        max_jobs,
        int(strict),
        heard,
        instance,
        *_events(inserted, evicted),
    ]


def settle_arguments(
    worker: str,
    settlements: Sequence[Settlement],
    inserted: Sequence[str] = (),
    evicted: Sequence[str] = (),
) -> list[Argument]:
    """Arguments of `settle`, six per job before the cache events."""
    rows = [
        (
            item.job_id,
            item.epoch,
            item.extend_tokens,
            item.output_tokens,
            item.outcome.value,
            item.result,
        )
        for item in settlements
    ]
    cells = [cell for row in rows for cell in row]
    return [worker, len(rows), *cells, *_events(inserted, evicted)]


def renew_arguments(worker: str, held: Sequence[Claimed]) -> list[Argument]:
    """Arguments of `renew`, two per job after the worker."""
    return [worker, *(cell for job in held for cell in (job.job_id, job.epoch))]


def read_verdicts(
    answer: Sequence[Any], jobs: Sequence[Job], settings: GateSettings
) -> list[Verdict]:
    """Answer of `submit` for these jobs, in their order."""
    _now, *rows = answer
    verdicts = []
    for job, (name, pool_tokens, tenant_tokens, drain_rate) in zip(jobs, rows, strict=True):
        refused = name.decode(), job.tokens, pool_tokens, tenant_tokens, drain_rate
        verdicts.append(Verdict(name.decode(), policy.refusal_wait_ms(*refused, settings)))
    return verdicts


def read_join(answer: Sequence[Any], settings: GateSettings) -> tuple[int, dict[str, int | str]]:
    """Answer of `join`: the jobs queued again, and what live workers have otherwise set."""
    _now, requeued, theirs = answer
    agreed = json.loads(theirs) if theirs else {}
    own = asdict(settings) | {"policy": agreed.get("policy")}
    return requeued, {name: agreed[name] for name in own if agreed and agreed[name] != own[name]}


def read_claim(answer: Sequence[Any]) -> Claim:
    """Answer of `claim`."""
    now, known, expired, *rows = answer
    jobs = tuple(
        Claimed(job_id.decode(), epoch, payload, reply_to.decode(), charged, cached, queue_ms)
        for job_id, epoch, payload, reply_to, charged, cached, queue_ms in rows
    )
    return Claim(jobs, expired, now, bool(known))


def read_reaped(answer: Sequence[int]) -> Reaped:
    """Answer of `reap`."""
    now, requeued, lost, expired = answer
    return Reaped(requeued, lost, expired, now)


def read_reply(raw: bytes) -> Reply:
    """One element of a reply list."""
    job_id, outcome, result = raw.split(b"\0", 2)
    return Reply(job_id.decode(), Outcome(outcome.decode()), result)


def read_explanation(answer: Sequence[Any]) -> Explanation:
    """Answer of `explain`, with the bound that follows from it."""
    _now, state, *facts = answer
    if state != b"queued":
        worker, *times = facts or [b""]
        return Explanation(state.decode(), worker.decode(), *times)
    worker, queue_ms, deadline_in_ms, before, matched, rows, *numbers = facts
    queued_cost, largest_cost, drain_rate, quantum, refill, overtakes = numbers
    levels = tuple(LevelStanding(node.decode(), *counts) for node, *counts in rows)
    bound = policy.wait_bound(levels, before, quantum, refill, overtakes, largest_cost)
    return Explanation(
        state=state.decode(),
        worker=worker.decode(),
        queue_ms=queue_ms,
        deadline_in_ms=deadline_in_ms,
        due_before=before,
        matched_blocks=matched,
        levels=levels,
        queued_cost=queued_cost,
        largest_cost=largest_cost,
        drain_rate=drain_rate,
        bound=bound,
    )


def read_stats(answer: Sequence[Any]) -> GateStats:
    """Answer of `stats`."""
    now, name, jobs, tokens, leased, rounds, service, platform, uncharged, rate, *tables = answer
    nodes, workers = tables
    return GateStats(
        policy=name.decode(),
        queued_jobs=jobs,
        queued_tokens=tokens,
        leased_jobs=leased,
        round=rounds,
        service=service,
        platform=platform,
        uncharged=uncharged,
        drain_rate=rate,
        now_ms=now,
        nodes={node.decode(): NodeStats(*standing) for node, *standing in nodes},
        workers={worker.decode(): seen_ms for worker, seen_ms in workers},
    )


def _events(inserted: Sequence[str], evicted: Sequence[str]) -> list[Argument]:
    return [len(inserted), *inserted, *evicted]
