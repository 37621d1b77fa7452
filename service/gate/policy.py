"""Deficit Longest Prefix Match as pure functions over plain data. Knows no clock, queue or Redis.

Source: arXiv 2501.14312, Algorithm 1, with w_e = 1 and no output tokens. Two differences: the cost
is charged whole at admission, so the bound's U is the cost of one job, U' = max charge; and a
refill jumps over rounds in which no waiting tenant would turn positive.

Two tenants that always have jobs waiting take part in the same refills, so over any window their
net service per weight differs by what their counters moved: at most
2 Q + (U' + F_f) / w_f + (U' + F_g) / w_g, with F the largest charge a tenant has in flight. F is
there because a refund may lift a counter above w Q, by what was in flight at the last refill.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Balance:
    """A tenant's counter q in tokens; -U' < q <= weight * Q + refunds since its last refill."""

    deficit: int = 0  # a new tenant waits for the next refill
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Candidate:
    """A waiting job as the policy sees it; all counts in tokens."""

    job_id: str
    tenant: str
    context_id: str
    sequence: int  # order of arrival
    context_tokens: int
    candidate_tokens: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one batch; see `GateSettings` for `quantum` and `overtakes`."""

    quantum: int
    token_budget: int  # extend tokens
    max_jobs: int
    overtakes: int


@dataclass(frozen=True, slots=True)
class Pick:
    """An admitted job with what its tenant paid for it."""

    candidate: Candidate
    charged: int
    cached_tokens: int


def held_tokens(
    chain: Sequence[str], block_size: int, context_tokens: int, held: Collection[str]
) -> int:
    """Context tokens whose blocks a worker holds; leaves go first, so they are a prefix."""
    low, high = 0, len(chain)
    while low < high:
        middle = (low + high + 1) // 2
        if chain[middle - 1] in held:
            low = middle
        else:
            high = middle - 1
    return min(low * block_size, context_tokens)


def charge(candidate: Candidate, cached_tokens: int) -> int:
    """Extend tokens, at least 1: nothing is free, or a tenant could send without end."""
    return max(1, candidate.context_tokens - cached_tokens + candidate.candidate_tokens)


def refills_owed(balance: Balance, quantum: int) -> int:
    """Refills until the deficit is positive; 0 if it is."""
    if balance.deficit > 0:
        return 0
    return -balance.deficit // (balance.weight * quantum) + 1


def refill(
    balances: Mapping[str, Balance], waiting: Collection[str], quantum: int
) -> dict[str, Balance]:
    """CheckRefill: refills all known tenants with q <= 0 until one that waits is positive."""
    rounds = min((refills_owed(balances[tenant], quantum) for tenant in waiting), default=0)
    return {tenant: _refilled(balance, rounds, quantum) for tenant, balance in balances.items()}


def _refilled(balance: Balance, rounds: int, quantum: int) -> Balance:
    refills = min(rounds, refills_owed(balance, quantum))
    return replace(balance, deficit=balance.deficit + refills * balance.weight * quantum)


def dlpm_order(
    candidates: Sequence[Candidate],
    cached_tokens: Mapping[str, int],
    balances: Mapping[str, Balance],
    limits: Limits,
    arrivals: int,
) -> tuple[list[Pick], dict[str, Balance]]:
    """Fills one batch: longest cached prefix first, ties by arrival, among tenants with q > 0.

    `cached_tokens` maps context ids to what the worker holds. Jobs of one tenant on one context go
    first in, first out; a context picked once counts as cached for the rest of the batch. Among the
    same tenants, a job that is `limits.overtakes` places behind its turn by arrival goes first:
    `arrivals` is the sequence of the newest job, and what does not wait any more has departed. The
    first job may exceed the token budget, so whatever waits, something is admitted. Returns the
    picks in order and all balances after charges and refills.
    """
    waiting, cached, after = list(candidates), dict(cached_tokens), dict(balances)
    picks: list[Pick] = []
    room = limits.token_budget
    while len(picks) < limits.max_jobs and waiting:
        after = refill(after, {job.tenant for job in waiting}, limits.quantum)
        turn = arrivals - len(waiting) - limits.overtakes + 1
        admissible = admissible_heads(waiting, cached, after, room if picks else None)
        if not admissible:
            break
        best = min(admissible, key=lambda job: precedence(job, cached[job.context_id], turn))
        cost = charge(best, cached[best.context_id])
        picks.append(Pick(best, cost, cached[best.context_id]))
        room -= cost
        after[best.tenant] = charged(after[best.tenant], cost)
        cached[best.context_id] = best.context_tokens
        waiting.remove(best)
    return picks, after


def precedence(job: Candidate, cached_tokens: int, turn: int) -> tuple[bool, int, int]:
    """Least goes first: overtaken jobs (`sequence` <= `turn`) by arrival, then longest prefix."""
    overtaken = job.sequence <= turn
    return (not overtaken, 0 if overtaken else -cached_tokens, job.sequence)


def admissible_heads(
    waiting: Sequence[Candidate],
    cached_tokens: Mapping[str, int],
    balances: Mapping[str, Balance],
    room: int | None,
) -> list[Candidate]:
    """Each group's first job, where its tenant is in credit and the job fits `room` tokens."""
    heads: dict[tuple[str, str], Candidate] = {}
    for job in sorted(waiting, key=lambda job: job.sequence):
        heads.setdefault((job.tenant, job.context_id), job)
    return [
        job
        for job in heads.values()
        if balances[job.tenant].deficit > 0
        and (room is None or charge(job, cached_tokens[job.context_id]) <= room)
    ]


def charged(balance: Balance, tokens: int) -> Balance:
    """The balance after paying `tokens`; a negative number is a refund."""
    return replace(balance, deficit=balance.deficit - tokens)
