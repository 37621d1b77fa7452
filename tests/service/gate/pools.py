"""Small in-memory pools for tests, and what they are asked. Knows no test."""

from __future__ import annotations

from typing import Any

from service.gate.job import Claim, Claimed, Settlement
from service.gate.pool import Pool
from service.gate.settings import GateSettings

COST = 42  # of a job of two blocks that nobody holds
SMALL: dict[str, Any] = {
    "quantum": 100,
    "quantum_parts": 1,
    "output_weight": 2,
    "output_room": 1,
    "overtakes": 2,
    "lease_ms": 50,
    "retry_after_ms": 700,
}


def pool_of(*workers: str, **changes: Any) -> Pool:
    pool = Pool(GateSettings(**SMALL | changes))
    for worker in workers:
        pool.join(worker, 1_000)
    return pool


def names(claim: Claim) -> list[str]:
    return [claimed.job_id for claimed in claim.jobs]


def scored(claimed: Claimed, extend_tokens: int = COST) -> Settlement:
    return Settlement(claimed.job_id, claimed.epoch, extend_tokens, b"result")
