"""The gate's decisions as pure functions over plain data. Knows no clock, queue, tree or Redis.

DLPM and D2LPM after arXiv 2501.14312, Algorithms 1 and 2. Differences: the worst case is charged at
admission, so one job's overdraft is U' = w_e L_input + w_q L_output and the paper's M falls away;
a refill jumps over rounds in which no waiting node would turn positive; counters are shared by all
workers, so no bound grows with their number; the earliest deadline goes first every so often; a
quantum Q may come in several refills r = Q / parts, so that the busy take turns finely while the
idle save up one Q.

Every counter obeys -U' < q <= w Q + the refunds credited since its last refill. Two siblings that
always have jobs waiting take part in the same refills, so over any window their net service per
weight differs by what their counters moved: `gap_bound`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from service.gate.job import LevelStanding
from service.gate.settings import GateSettings

MOST_BLOCKS = 4_095  # of a match that are told apart
MOST_WAITING = 32  # jobs on one context that are told apart


def matched_blocks(chain: Sequence[str], held: Mapping[str, object] | set[str]) -> int:
    """Blocks of the chain that are held; leaves are evicted first, so they are its front."""
    low, high = 0, len(chain)
    while low < high:
        middle = (low + high + 1) // 2
        if chain[middle - 1] in held:
            low = middle
        else:
            high = middle - 1
    return low


def heat(matched: int, waiting: int) -> int:
    """How early a context goes: the longest match, then the most jobs waiting on it.

    Whoever is computed for many saves as many; of one job on nothing held it is 0. Both count only
    up to a limit, so that Redis can keep the heat and an arrival in one exact number.
    """
    return min(matched, MOST_BLOCKS) * MOST_WAITING + min(waiting, MOST_WAITING) - 1


def refills_owed(deficit: int, weight: int, refill: int) -> int:
    """Refills until the counter is positive; 0 if it is."""
    return 0 if deficit > 0 else -deficit // (weight * refill) + 1


def refilled(deficit: int, weight: int, refill: int, quantum: int, rounds: int) -> int:
    """The counter after `rounds` refills of w r, none of which raises it above w Q.

    With one refill a quantum that is the paper's: each passes over a positive counter.
    """
    most = max(0, (weight * quantum - deficit) // (weight * refill))
    return deficit + min(rounds, most) * weight * refill


def prefers_due(streak: int, overtakes: int) -> bool:
    """Whether the earliest deadline goes now, after `streak` picks by longest prefix.

    Of `overtakes` + 1 picks in a row of a worker at least one goes by deadline, and so does one of
    as many picks of a leaf there, which is its own earliest due: k-LPM (arXiv 2502.04677) with
    deadlines for arrivals, so equal allowances give first come, first served. The worker's row
    alone would promise a leaf nothing: its turns may be between those that go by deadline.
    """
    return streak >= overtakes


def responds_sooner(waited: int, uncached: int, other_waited: int, other_uncached: int) -> bool:
    """Highest response ratio next: whether (waited + uncached) / uncached is above the other's.

    `waited` is the cost served since the job arrived, as in SGLang's hrrn.
    """
    return waited * max(1, other_uncached) > other_waited * max(1, uncached)


def route(
    matches: Mapping[str, int],
    credits: Mapping[str, int],
    loads: Mapping[str, int],
    tokens: int,
    worker_quantum: int,
) -> tuple[str, dict[str, int]]:
    """D2LPM: of the workers with credit, the least loaded that holds the longest match.

    `matches` counts blocks, `credits` is the tenant's q per worker, `loads` are tokens queued and
    leased. Returns the worker and the credits after all input tokens were charged to it.
    """
    rounds = min(refills_owed(credits[worker], 1, worker_quantum) for worker in matches)
    after = {worker: credits[worker] + rounds * worker_quantum for worker in matches}
    positive = [worker for worker in sorted(matches) if after[worker] > 0]
    longest = max(matches.values())
    holders = [worker for worker in positive if matches[worker] == longest]
    choice = min(holders or positive, key=lambda worker: loads[worker])
    after[choice] -= tokens
    return choice, after


def shares(
    attribution: str, cost: int, context_cost: int, payer: str, sharers: Sequence[str]
) -> list[tuple[str, int]]:
    """Who pays how much for one job, `payer` first; "" is the platform. The parts sum to `cost`.

    `context_cost` is the part for uncached context; `sharers` are the other leaves in credit that
    wait on the same context. Every job costs its payer at least 1.
    """
    if attribution == "platform":
        borne = min(context_cost, cost - 1)
        return [(payer, cost - borne), *([("", borne)] if borne else [])]
    part = context_cost // (len(sharers) + 1) if attribution == "split" else 0
    others = [(sharer, part) for sharer in sharers if part]
    return [(payer, cost - part * len(others)), *others]


def retry_after_ms(excess_tokens: int, drain_rate: int, unknown_ms: int) -> int:
    """Time until `excess_tokens` have drained at `drain_rate` tokens per second, 0.1 s to 60 s."""
    if drain_rate <= 0:
        return unknown_ms
    return max(100, min(60_000, -(-1_000 * excess_tokens // drain_rate)))


def refusal_wait_ms(
    answer: str,
    tokens: int,
    pool_tokens: int,
    tenant_tokens: int,
    drain_rate: int,
    limits: GateSettings,
) -> int:
    """When a job of `tokens` that was refused may be worth another try; 0 where no cap was met.

    `pool_tokens` and `tenant_tokens` are queued: what is above the cap has to drain first.
    """
    above = pool_tokens + tokens - limits.max_pool_tokens
    excess = max(tokens, above)
    if answer in ("tenant_full", "tenant_busy"):
        above = tenant_tokens + tokens - limits.max_tenant_tokens
        # Beside one token of the tenant's, the others' share of the queue drains as well.
        excess = max(tokens, above) * max(1, pool_tokens) // max(1, tenant_tokens)
    elif answer != "pool_full":
        return 0
    return retry_after_ms(excess, drain_rate, limits.retry_after_ms)


def pool_is_full(
    pool: tuple[int, int], tenant: tuple[int, int], limits: tuple[int, int], parts: int
) -> bool:
    """Whether the pool has no room for a job; each pair is jobs and tokens, the job counted in.

    A tenant below the `parts`-th part of each limit may go on up to a quarter above them, so that
    others who sit at their own caps do not lock it out.
    """
    soft = any(used > limit for used, limit in zip(pool, limits, strict=True))
    hard = any(used > limit + limit // 4 for used, limit in zip(pool, limits, strict=True))
    small = all(used <= limit // parts for used, limit in zip(tenant, limits, strict=True))
    return hard or (soft and not small)


def gap_bound(
    quantum: int,
    job_cost: int,
    weights: tuple[int, int] = (1, 1),
    in_flight: tuple[int, int] = (0, 0),
) -> float:
    """Most that two backlogged siblings' net service per weight differ over any window.

    Net service is refills less the counter's move; both have the same refills w Q up to one, and
    counters stay above -U' (`job_cost`) and at most w Q plus the refunds of what was in flight at
    the last refill (`in_flight`): 2 Q + sum of (U' + F) / w. Compare Theorem 4.1: 2 (U + Q).
    """
    return 2 * quantum + sum(
        (job_cost + flight) / weight for weight, flight in zip(weights, in_flight, strict=True)
    )


def wait_bound(
    levels: Sequence[LevelStanding],
    due_before: int,
    quantum: int,
    refill: int,
    overtakes: int,
    job_cost: int,
) -> int:
    """Cost one worker serves at most before a queued job is claimed.

    Holds while nothing due earlier arrives and no new rival begins to wait. One of `overtakes` + 1
    picks of the job's leaf is its earliest due, so the leaf's own work until then is bounded. A
    level (the top one first) in debt turns positive after `rounds` refills, and goes into debt
    again only by serving what is below it, at least a refill at a time; in each such spell a rival
    spends at most its refill and overdraws once, and in the first one what it had saved: a quantum.
    All of that is work of the level above. Compare Theorem A.2: 2 (n - 1) (Q + U).
    """
    work = (due_before + 1) * (overtakes + 1) * job_cost
    for level in reversed(levels):
        spells = level.rounds - -work // (level.weight * refill)
        work += spells * (level.rival_weight * refill + level.rivals * job_cost)
        work += level.rival_weight * (quantum - refill)
    return work
