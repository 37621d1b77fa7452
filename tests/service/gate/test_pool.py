"""The pure pool's invariants over random histories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

import pytest

from service.gate import pool
from service.gate.job import Claimed, Job, Outcome, Settlement
from service.gate.pool import PoolState
from service.gate.settings import GateSettings

EVENTS = 20_000
QUANTUM = 100
LARGEST_CHARGE = 4 * 16 + 300
SETTINGS = GateSettings(
    quantum=QUANTUM, overtakes=6, lease_ms=50, max_pool_jobs=30, max_tenant_jobs=12
)
WORKERS = ("worker-0", "worker-1")


@dataclass
class History:
    """Plays random verbs on a pool and keeps what the invariants speak of."""

    random: Random
    state: PoolState = field(default_factory=lambda: PoolState(SETTINGS))
    now: int = 1_000
    accepted: list[str] = field(default_factory=list)
    cancelled: set[str] = field(default_factory=set)  # while leased
    ended: Counter[str] = field(default_factory=Counter)
    claims: dict[str, Claimed] = field(default_factory=dict)
    credited: Counter[str] = field(default_factory=Counter)  # refunds since the last refill

    def submit(self, job: Job) -> None:
        self.state, verdict = pool.submit(self.state, job, self.now)
        if verdict == "queued":
            self.accepted.append(job.job_id)

    def claim(self) -> None:
        before, waiting = self.state, self.state.queued
        budget = self.random.choice([0, 100, 1_000])
        self.state, claim = pool.claim(
            before, self.random.choice(WORKERS), budget, 4, ["a_______"], [], self.now
        )
        assert bool(claim.jobs) == (len(waiting) > claim.expired)
        self.claims |= {job.job_id: job for job in claim.jobs}
        paid: Counter[str] = Counter()
        for claimed in claim.jobs:
            paid[before.entries[claimed.job_id].job.tenant] += claimed.charged
        for tenant, balance in self.state.balances.items():
            if balance.deficit + paid[tenant] > before.balances[tenant].deficit:
                self.credited[tenant] = 0  # refilled

    def settle(self) -> None:
        claimed = self.random.choice([*self.claims.values()]) if self.claims else None
        if claimed:
            epoch = claimed.epoch - self.random.choice([0, 0, 0, 1])
            actual = self.random.randrange(claimed.charged + 20)
            settlement = Settlement(claimed.job_id, epoch, actual, b"", Outcome.SCORED)
            self.after_refund(pool.settle(self.state, [settlement])[0])

    def renew(self) -> None:
        self.state, _kept = pool.renew(self.state, [*self.claims.values()], self.now)

    def cancel(self) -> None:
        job_id = self.random.choice([*self.accepted, "unknown"])
        self.state, removed = pool.cancel(self.state, job_id)
        if removed:
            self.ended[job_id] += 1
        elif job_id in self.state.entries:
            self.cancelled.add(job_id)

    def crash(self) -> None:
        self.after_refund(pool.leave(self.state, self.random.choice(WORKERS))[0])

    def reap(self) -> None:
        self.after_refund(pool.reap(self.state, self.now)[0])

    def after_refund(self, after: PoolState) -> None:
        for tenant, balance in after.balances.items():
            self.credited[tenant] += balance.deficit - self.state.balances[tenant].deficit
        self.state = after

    def check(self) -> None:
        for tenant, balance in self.state.balances.items():
            most = balance.weight * QUANTUM + self.credited[tenant]
            assert -LARGEST_CHARGE < balance.deficit <= most
        for reply in self.state.replies:
            self.ended[reply.job_id] += 1
        self.state = replace(self.state, replies=())
        charged = sum(entry.charged for entry in self.state.leased)
        assert sum(self.state.service.values()) >= charged


@pytest.fixture(scope="module")
def history(random_job: Callable[[Random, str], Job]) -> History:
    random = Random(7)
    history = History(random)
    others = [history.claim, history.settle, history.renew, history.crash, history.reap]
    for number in range(EVENTS):
        history.now += random.randrange(4)
        if random.random() < 0.4:
            history.submit(random_job(random, f"job-{number}"))
        elif random.random() < 0.05:
            history.cancel()
        else:
            random.choices(others, weights=[10, 20, 2, 0.2, 2])[0]()
        history.check()
    return history


def test_deficits_stay_within_their_bounds_through_a_long_history(history: History) -> None:
    assert sum(history.state.service.values()) > 100 * QUANTUM


def test_every_accepted_job_ends_exactly_once(history: History) -> None:
    state, now = history.state, history.now
    while state.entries:
        now += SETTINGS.lease_ms
        state, _claim = pool.claim(state, "drain", 10_000, 100, [], [], now)
        state, _reaped = pool.reap(state, now + SETTINGS.lease_ms)
        state = replace(state, heartbeat=None)
    ended = history.ended + Counter(reply.job_id for reply in state.replies)
    assert len(history.accepted) > EVENTS // 10
    assert set(history.accepted) - set(ended) <= history.cancelled
    assert set(ended) <= set(history.accepted)
    assert set(ended.values()) == {1}


def test_a_reaped_job_keeps_its_place_and_its_tenant_gets_the_charge_back(
    make_job: Callable[..., Job],
) -> None:
    state = PoolState(SETTINGS)
    for name in ("first", "second"):
        state, _verdict = pool.submit(state, make_job(name), now=0)
    state, claim = pool.claim(state, "dead", 0, 1, [], [], now=0)
    owed = state.balances["tenant"].deficit
    state, reaped = pool.reap(state, now=SETTINGS.lease_ms)
    assert reaped.requeued == 1
    assert state.balances["tenant"].deficit == owed + claim.jobs[0].charged
    state, again = pool.claim(state, "alive", 0, 1, [], [], now=60)
    assert [job.job_id for job in again.jobs] == ["first"]
    assert again.jobs[0].queue_ms == 60


def test_a_job_is_delivered_twice_at_most(make_job: Callable[..., Job]) -> None:
    state, _verdict = pool.submit(PoolState(SETTINGS), make_job("poison"), now=0)
    for _ in range(2):
        state, _claim = pool.claim(state, "dies", 0, 1, [], [], now=0)
        state, _requeued = pool.leave(state, "dies")
    assert [reply.outcome for reply in state.replies] == [Outcome.WORKER_LOST]
    assert not state.entries


def test_a_pause_extends_leases_instead_of_ending_them(make_job: Callable[..., Job]) -> None:
    state, _verdict = pool.submit(PoolState(SETTINGS), make_job("job"), now=0)
    state, _reaped = pool.reap(state, now=0)
    state, _claim = pool.claim(state, "worker", 0, 1, [], [], now=0)
    state, paused = pool.reap(state, now=5_000)
    assert (paused.paused_ms, paused.requeued) == (5_000, 0)
    state, stepped_back = pool.reap(state, now=1_000)
    assert stepped_back.paused_ms == -4_000
    assert state.leased[0].lease_ends_at == SETTINGS.lease_ms + 1_000
