"""What every verb of the gate means, as pure functions. Knows no Redis: it is what Lua is held to.

Each verb takes a state and the time of the call, and returns the next state with its answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from service.gate import policy
from service.gate.job import Claim, Claimed, Job, Outcome, Reaped, Reply, Settlement
from service.gate.settings import GateSettings


@dataclass(frozen=True, slots=True)
class Entry:
    """A job in the pool: queued, or leased when `epoch` > 0; times are milliseconds."""

    job: Job
    sequence: int
    submitted_at: int
    deadline_at: int
    attempts: int = 0
    epoch: int = 0
    worker: str = ""
    charged: int = 0
    lease_ends_at: int = 0
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class PoolState:
    """Everything the gate knows about one pool."""

    settings: GateSettings
    balances: Mapping[str, policy.Balance] = field(default_factory=dict)
    service: Mapping[str, int] = field(default_factory=dict)  # charges less refunds
    entries: Mapping[str, Entry] = field(default_factory=dict)
    held: Mapping[str, frozenset[str]] = field(default_factory=dict)  # block hashes by worker
    replies: tuple[Reply, ...] = ()
    sequence: int = 0
    epoch: int = 0
    heartbeat: int | None = None

    @property
    def queued(self) -> list[Entry]:
        """Jobs that wait for a worker."""
        return [entry for entry in self.entries.values() if not entry.epoch]

    @property
    def leased(self) -> list[Entry]:
        """Jobs that a worker holds, in the order in which their leases end."""
        held = (entry for entry in self.entries.values() if entry.epoch)
        return sorted(held, key=lambda entry: (entry.lease_ends_at, entry.job.job_id))


def submit(state: PoolState, job: Job, now: int) -> tuple[PoolState, str]:
    """Queues a job or names why not: known, deadline, pool_full or tenant_full."""
    refusal = _refusal(state, job)
    if refusal:
        return state, refusal
    weight = replace(state.balances.get(job.tenant, policy.Balance()), weight=job.weight)
    entry = Entry(job, state.sequence + 1, now, now + job.deadline_ms)
    state = replace(
        state,
        sequence=entry.sequence,
        balances={**state.balances, job.tenant: weight},
        service={job.tenant: 0, **state.service},
    )
    return _put(state, entry), "queued"


def claim(
    state: PoolState,
    worker: str,
    token_budget: int,
    max_jobs: int,
    inserted: Iterable[str],
    evicted: Iterable[str],
    now: int,
) -> tuple[PoolState, Claim]:
    """Takes the worker's cache events, drops overdue jobs, leases a batch in DLPM order."""
    held = (state.held.get(worker, frozenset()) | set(inserted)) - set(evicted)
    state, expired = _expire_overdue(replace(state, held={**state.held, worker: held}), now)
    picks, balances = _batch(state, held, token_budget, max_jobs)
    state = replace(state, balances=balances)
    jobs = []
    for pick in picks:
        state, claimed = _lease(state, pick, worker, now)
        jobs.append(claimed)
    return state, Claim(tuple(jobs), expired, now)


def settle(state: PoolState, settlements: Sequence[Settlement]) -> tuple[PoolState, list[bool]]:
    """Answers each job whose epoch is current, refunding what was charged above its tokens."""
    taken = []
    for item in settlements:
        entry = state.entries.get(item.job_id)
        current = entry is not None and entry.epoch == item.epoch
        taken.append(current)
        if entry is not None and current:
            state = _refund(state, entry, max(0, entry.charged - max(1, item.extend_tokens)))
            state = _answer(state, entry, item.outcome, item.result)
    return state, taken


def renew(state: PoolState, held: Sequence[Claimed], now: int) -> tuple[PoolState, list[bool]]:
    """Starts anew the leases whose epoch is current."""
    kept = []
    for claimed in held:
        entry = state.entries.get(claimed.job_id)
        current = entry is not None and entry.epoch == claimed.epoch
        kept.append(current)
        if entry is not None and current:
            state = _put(state, replace(entry, lease_ends_at=now + state.settings.lease_ms))
    return state, kept


def cancel(state: PoolState, job_id: str) -> tuple[PoolState, bool]:
    """Removes a queued job; a leased one is only marked, so that it is never queued again."""
    entry = state.entries.get(job_id)
    if entry is None:
        return state, False
    if entry.epoch:
        return _put(state, replace(entry, cancelled=True)), False
    return _remove(state, entry), True


def leave(state: PoolState, worker: str) -> tuple[PoolState, int]:
    """Ends all leases of a worker that is gone and forgets its cache; counts the requeued."""
    mine = [entry for entry in state.leased if entry.worker == worker]
    state, requeued, _lost = _release_all(state, mine)
    held = {name: blocks for name, blocks in state.held.items() if name != worker}
    return replace(state, held=held), requeued


def reap(state: PoolState, now: int) -> tuple[PoolState, Reaped]:
    """Ends expired leases, or extends all of them when nobody reaped for longer than a pause."""
    gap = 0 if state.heartbeat is None else now - state.heartbeat
    paused = gap if gap > state.settings.pause_ms or gap < 0 else 0
    state, requeued, lost = replace(state, heartbeat=now), 0, 0
    if paused:
        for entry in state.leased:
            state = _put(state, replace(entry, lease_ends_at=entry.lease_ends_at + paused))
    else:
        ended = [entry for entry in state.leased if entry.lease_ends_at <= now]
        state, requeued, lost = _release_all(state, ended)
    state, expired = _expire_overdue(state, now)
    return state, Reaped(requeued, lost, expired, paused, now)


def _refusal(state: PoolState, job: Job) -> str:
    limits, tokens = state.settings, _tokens(job)
    queued = [entry.job for entry in state.queued]
    mine = [other for other in queued if other.tenant == job.tenant]
    if job.job_id in state.entries:
        return "known"
    if job.deadline_ms <= 0:
        return "deadline"
    if _exceeds(queued, tokens, limits.max_pool_jobs, limits.max_pool_tokens):
        return "pool_full"
    if _exceeds(mine, tokens, limits.max_tenant_jobs, limits.max_tenant_tokens):
        return "tenant_full"
    return ""


def _exceeds(queued: Sequence[Job], tokens: int, max_jobs: int, max_tokens: int) -> bool:
    return len(queued) + 1 > max_jobs or sum(map(_tokens, queued)) + tokens > max_tokens


def _tokens(job: Job) -> int:
    return job.context_tokens + job.candidate_tokens


def _batch(
    state: PoolState, held: frozenset[str], token_budget: int, max_jobs: int
) -> tuple[list[policy.Pick], dict[str, policy.Balance]]:
    candidates = [_candidate(entry) for entry in state.queued]
    jobs = [entry.job for entry in state.queued]
    cached = {
        job.context_id: policy.held_tokens(
            job.context_hashes, job.block_size, job.context_tokens, held
        )
        for job in jobs
    }
    settings = state.settings
    limits = policy.Limits(settings.quantum, token_budget, max_jobs, settings.overtakes)
    return policy.dlpm_order(candidates, cached, state.balances, limits, state.sequence)


def _candidate(entry: Entry) -> policy.Candidate:
    job = entry.job
    return policy.Candidate(
        job_id=job.job_id,
        tenant=job.tenant,
        context_id=job.context_id,
        sequence=entry.sequence,
        context_tokens=job.context_tokens,
        candidate_tokens=job.candidate_tokens,
    )


def _lease(state: PoolState, pick: policy.Pick, worker: str, now: int) -> tuple[PoolState, Claimed]:
    entry, epoch = state.entries[pick.candidate.job_id], state.epoch + 1
    leased = replace(
        entry,
        attempts=entry.attempts + 1,
        epoch=epoch,
        worker=worker,
        charged=pick.charged,
        lease_ends_at=now + state.settings.lease_ms,
    )
    tenant = entry.job.tenant
    service = {**state.service, tenant: state.service[tenant] + pick.charged}
    claimed = Claimed(
        job_id=entry.job.job_id,
        epoch=epoch,
        payload=entry.job.payload,
        reply_to=entry.job.reply_to,
        charged=pick.charged,
        cached_tokens_believed=pick.cached_tokens,
        queue_ms=now - entry.submitted_at,
    )
    return _put(replace(state, epoch=epoch, service=service), leased), claimed


def _refund(state: PoolState, entry: Entry, tokens: int) -> PoolState:
    tenant = entry.job.tenant
    balances = {**state.balances, tenant: policy.charged(state.balances[tenant], -tokens)}
    service = {**state.service, tenant: state.service[tenant] - tokens}
    return replace(state, balances=balances, service=service)


def _release_all(state: PoolState, leased: Sequence[Entry]) -> tuple[PoolState, int, int]:
    requeued = lost = 0
    for entry in leased:
        state = _refund(state, entry, entry.charged)
        if entry.cancelled:
            state = _remove(state, entry)
        elif entry.attempts >= state.settings.max_attempts:
            state, lost = _answer(state, entry, Outcome.WORKER_LOST, b""), lost + 1
        else:
            waiting = replace(entry, epoch=0, worker="", charged=0, lease_ends_at=0)
            state, requeued = _put(state, waiting), requeued + 1
    return state, requeued, lost


def _expire_overdue(state: PoolState, now: int) -> tuple[PoolState, int]:
    overdue = [entry for entry in state.queued if entry.deadline_at <= now]
    for entry in sorted(overdue, key=lambda entry: (entry.deadline_at, entry.job.job_id)):
        state = _answer(state, entry, Outcome.DEADLINE, b"")
    return state, len(overdue)


def _answer(state: PoolState, entry: Entry, outcome: Outcome, result: bytes) -> PoolState:
    reply = Reply(entry.job.job_id, outcome, result)
    return _remove(replace(state, replies=(*state.replies, reply)), entry)


def _put(state: PoolState, entry: Entry) -> PoolState:
    return replace(state, entries={**state.entries, entry.job.job_id: entry})


def _remove(state: PoolState, entry: Entry) -> PoolState:
    gone = entry.job.job_id
    return replace(state, entries={k: v for k, v in state.entries.items() if k != gone})
